"""What a partition divides samples by: their token length, a label, or the source that they share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splitcom_dist.data.examples import Example
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import UserError

NO_LABEL = "(none)"  # of a sample whose row lacks the field that others have


@dataclass(frozen=True)
class Classes:
    """The class of each sample, (count,) int64, and what each class is called."""

    of: np.ndarray
    names: list[str]


def by_length(lengths: np.ndarray, count: int) -> Classes:
    """Samples sorted by `lengths` (tokens each) and cut into `count` classes of even size (SplitFT, arXiv 2604.26388).

    There are never more classes than samples. Equal lengths keep the order of the samples, so plain text, which is cut
    into blocks of one length, is divided by place in the text.
    """
    order = np.argsort(lengths, kind="stable")
    of, names = np.empty(len(lengths), np.int64), []
    for number, members in enumerate(np.array_split(order, min(count, len(lengths)))):
        of[members] = number
        shortest, longest = lengths[members[0]], lengths[members[-1]]
        names.append(f"{shortest}" if shortest == longest else f"{shortest}-{longest}")
    return Classes(of, names)


def by_label(samples: Sequence[Sample], examples: Sequence[Example], label_field: str) -> Classes:
    """Classes by the value of a field of the rows that samples were read from, the largest class first.

    Where no row has the field, it is an attribute of the linearised sources: `Type` in `name : The Copper Spoon | Type
    : pub`. Raises UserError where they have none of that name either, and for plain text.
    """
    told = _examples_of(samples, examples, "data.label_field")
    labels = [example.fields.get(label_field) for example in told]
    if all(label is None for label in labels):
        labels = [_attributes(example).get(label_field) for example in told]
    if all(label is None for label in labels):
        known = sorted({name for example in told for name in (*example.fields, *_attributes(example))})
        hint = f"there are {', '.join(known[:12])}" if known else "rows have source and target only"
        raise UserError(f"data.label_field={label_field}: no training sample has such a field or attribute; {hint}")
    values, of, sizes = np.unique(
        [NO_LABEL if label is None else label for label in labels], return_inverse=True, return_counts=True
    )
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Classes(rank[of], [str(values[number]) for number in order])


def sources(samples: Sequence[Sample], examples: Sequence[Example]) -> np.ndarray:
    """A number (count,) int64 for each sample, equal where sources are. Raises UserError for plain text."""
    told = _examples_of(samples, examples, "data.partition=by_source")
    numbers: dict[str | None, int] = {}
    return np.array([numbers.setdefault(example.source, len(numbers)) for example in told])


def skew(classes: Classes, shards: Sequence[np.ndarray]) -> float:
    """How far the shards' mixtures of classes are from that of all samples: total variation, weighted by samples.

    From 0, all alike, to below 1, where every shard has a class of its own.
    """
    whole = np.bincount(classes.of) / len(classes.of)
    distances = [np.abs(np.bincount(classes.of[shard], minlength=len(whole)) / len(shard) - whole) for shard in shards]
    return float(np.average([distance.sum() / 2 for distance in distances], weights=[len(shard) for shard in shards]))


def _examples_of(samples: Sequence[Sample], examples: Sequence[Example], key: str) -> list[Example]:
    """The example that each sample was made from."""
    if any(sample.id >= len(examples) or examples[sample.id].source is None for sample in samples):
        raise UserError(f"{key}: plain text has neither sources nor labels; set data.partition=dirichlet_length or iid")
    return [examples[sample.id] for sample in samples]


def _attributes(example: Example) -> dict[str, str]:
    pairs = (part.partition(" : ") for part in (example.source or "").split(" | "))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
