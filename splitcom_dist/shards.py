"""Text to shards of samples: what each logical client trains on, and what the aggregator evaluates."""

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from splitcom_dist.config import Config
from splitcom_dist.data.corpora import load
from splitcom_dist.data.partition import iid
from splitcom_dist.data.tokens import Sample, tokenize
from splitcom_dist.errors import UserError
from splitcom_dist.models.sources import ModelSource


def check_length(config: Config, source: ModelSource) -> None:
    """Raise UserError if a sample of data.max_length would not fit the model's positions."""
    if config.data.max_length - 1 > source.positions:  # the last token of a sample is only predicted
        raise UserError(
            f"data.max_length={config.data.max_length}: {source.name} has {source.positions} positions; "
            f"set data.max_length={source.positions} (data.overlong says what happens to longer samples)"
        )


def training_shards(
    config: Config, tokenizer: PreTrainedTokenizerBase, clients: Sequence[int]
) -> dict[int, list[Sample]]:
    """Samples of the given logical clients: each its own file, or its share of the common one."""
    data, seed = config.data, config.train.seed
    if "{client}" in (data.path or ""):
        assert data.path is not None
        return {
            client: _samples(config, tokenizer, data.path.replace("{client}", str(client)), "train", data.train_samples)
            for client in clients
        }
    samples = _samples(config, tokenizer, data.path, "train", data.train_samples)
    shards = iid(len(samples), config.fed.clients, seed)
    return {client: [samples[index] for index in shards[client]] for client in clients}


def validation_samples(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    """The held-out samples that the aggregator evaluates."""
    data = config.data
    path = data.validation_path or data.path
    return _samples(config, tokenizer, path, "validation", data.validation_samples)


def _samples(
    config: Config, tokenizer: PreTrainedTokenizerBase, path: str | None, split: str, limit: int | None
) -> list[Sample]:
    examples = load(config.data.name, path, split, seed=config.train.seed, limit=limit)
    tokenized = tokenize(examples, tokenizer, config.data.max_length, config.data.overlong)
    if tokenized.truncated or tokenized.dropped:
        logging.getLogger(__name__).warning(
            "%s: %d samples cut at data.max_length=%d, %d dropped",
            split, tokenized.truncated, config.data.max_length, tokenized.dropped,
        )  # fmt: skip
    return tokenized.samples
