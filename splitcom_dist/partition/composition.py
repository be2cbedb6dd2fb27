"""What every client's shard is made of, in counts."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitcom_dist.config.schema import Config
from splitcom_dist.data.classes import Classes, by_length, skew
from splitcom_dist.data.tokens import Sample
from splitcom_dist.shards import has_own_files, load_pool, training_shards

MOST_CLASSES = 12  # that are shown one by one


@dataclass(frozen=True)
class Composition:
    """`counts` (clients, classes) are samples, `tokens` (clients,) include end marks."""

    divided_by: str  # what the classes are
    names: list[str]
    counts: np.ndarray
    tokens: np.ndarray
    skew: float  # see data/classes.py

    @property
    def samples(self) -> np.ndarray:
        """Of each client, (clients,)."""
        return np.asarray(self.counts.sum(axis=1))


def compose(config: Config, tokenizer: PreTrainedTokenizerBase) -> Composition:
    """The composition of all shards. Raises UserError where the data or the partition would end a run at its start."""
    label_field = config.data.label_field
    if has_own_files(config):
        own = training_shards(config, tokenizer, range(config.fed.clients))
        samples = [sample for shard in own.values() for sample in shard]
        bounds = np.cumsum([len(shard) for shard in own.values()])[:-1]
        shards = np.split(np.arange(len(samples)), bounds)
        classes, label_field = by_length(_lengths(samples), config.data.classes), None
    else:
        pool = load_pool(config, tokenizer)
        samples, classes, shards = pool.samples, pool.classes, pool.shards
    by_label = label_field is not None and config.data.partition != "dirichlet_length"
    names, counts = _most_frequent(classes, shards) if by_label else (classes.names, _counts(classes, shards))
    lengths = _lengths(samples)
    return Composition(
        divided_by=str(label_field) if by_label else "tokens a sample",
        names=names,
        counts=counts,
        tokens=np.array([lengths[shard].sum() for shard in shards]),
        skew=skew(classes, shards),
    )


def _lengths(samples: list[Sample]) -> np.ndarray:
    return np.array([len(sample.tokens) for sample in samples])


def _counts(classes: Classes, shards: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.bincount(classes.of[shard], minlength=len(classes.names)) for shard in shards])


def _most_frequent(classes: Classes, shards: list[np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Names and counts of labels, which come largest first; beyond what can be shown, the rest together."""
    names, counts = classes.names, _counts(classes, shards)
    if len(names) <= MOST_CLASSES:
        return names, counts
    shown = MOST_CLASSES - 1
    rest = counts[:, shown:].sum(axis=1, keepdims=True)
    return [*names[:shown], f"{len(names) - shown} others"], np.hstack([counts[:, :shown], rest])
