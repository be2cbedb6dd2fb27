"""Text to shards of samples: what each logical client trains on, and what the aggregator evaluates."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitcom_dist.config.schema import Config
from splitcom_dist.data.classes import Classes, by_label, by_length, sources
from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.data.partition import dirichlet, iid, whole_groups
from splitcom_dist.data.tokens import Sample, tokenize
from splitcom_dist.errors import UserError
from splitcom_dist.models.sources import ModelSource


@dataclass(frozen=True)
class Pool:
    """The common training samples, and the indices of each client's, ascending.

    `classes` are what the partition divides by; where it does not, what shows how even it came out.
    """

    samples: list[Sample]
    classes: Classes
    shards: list[np.ndarray]


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
    data = config.data
    if has_own_files(config):
        assert data.path is not None
        paths = {client: data.path.replace("{client}", str(client)) for client in clients}
        return {
            client: _samples(config, tokenizer, path, "train", data.train_samples)[0] for client, path in paths.items()
        }
    pool = load_pool(config, tokenizer)
    return {client: [pool.samples[index] for index in pool.shards[client]] for client in clients}


def has_own_files(config: Config) -> bool:
    """Whether every client reads files of its own, so that there is no pool to divide."""
    return "{client}" in (config.data.path or "")


def load_pool(config: Config, tokenizer: PreTrainedTokenizerBase) -> Pool:
    """The common training samples, divided as data.partition says; the same on every rank that asks.

    Only ranks that hold clients ask: it reads the text of all.
    """
    data, clients, seed = config.data, config.fed.clients, config.train.seed
    samples, examples = _samples(config, tokenizer, data.path, "train", data.train_samples)
    if data.label_field is not None and data.partition != "dirichlet_length":
        classes = by_label(samples, examples, data.label_field)
    else:
        classes = by_length(np.array([len(sample.tokens) for sample in samples]), data.classes)
    if data.partition == "iid":
        shards = iid(len(samples), clients, seed, data.min_shard)
    elif data.partition == "by_source":
        groups = classes.of if data.label_field is not None else sources(samples, examples)
        shards = whole_groups(groups, clients, seed, data.min_shard)
    else:
        shards = dirichlet(classes.of, clients, data.alpha, seed, data.min_shard)
    return Pool(samples, classes, shards)


def validation_samples(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    """The held-out samples that the aggregator evaluates."""
    data = config.data
    path = data.validation_path or data.path
    return _samples(config, tokenizer, path, "validation", data.validation_samples)[0]


def _samples(
    config: Config, tokenizer: PreTrainedTokenizerBase, path: str | None, split: str, limit: int | None
) -> tuple[list[Sample], list[Example]]:
    """A split's samples, and the examples that their ids point to."""
    examples = load(config.data.name, path, split, seed=config.train.seed, limit=limit)
    tokenized = tokenize(examples, tokenizer, config.data.max_length, config.data.overlong)
    if tokenized.truncated or tokenized.dropped:
        logging.getLogger(__name__).warning(
            "%s: %d samples cut at data.max_length=%d, %d dropped",
            split, tokenized.truncated, config.data.max_length, tokenized.dropped,
        )  # fmt: skip
    return tokenized.samples, examples
