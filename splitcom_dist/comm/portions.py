"""A batch dealt out among the shards of a server, sample by sample, and what they make of it put together again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.ragged import row_mask


@dataclass(frozen=True)
class Portion:
    """B samples: rows (T, d), lengths (B,), and B vectors of target ids, empty ones where clients keep them."""

    rows: Tensor
    lengths: Tensor
    targets: Sequence[Tensor]


def unlabelled(rows: Tensor, lengths: Tensor) -> Portion:
    """Samples whose targets clients keep."""
    return Portion(rows, lengths, [lengths[:0]] * len(lengths))


def deal(batch: Portion, shards: int) -> list[Portion]:
    """Sample i goes to shard i mod `shards`.

    A shard that none is left for gets one position of zeros without a target: all must compute, for each has a slice
    of the weights, and this adds zeros to loss and gradients.
    """
    return [_portion(batch, range(shard, len(batch.lengths), shards), shards) for shard in range(shards)]


def together(parts: Sequence[Tensor], lengths: Tensor) -> Tensor:
    """The rows (T, d) of a batch with these lengths (B,), from those of its portions."""
    rows = parts[0].new_empty(int(lengths.sum()), parts[0].shape[1])
    for shard, part in enumerate(parts):
        places = _rows_of(shard, len(parts), lengths)
        rows[places] = part[: len(places)]
    return rows


def _portion(batch: Portion, samples: range, shards: int) -> Portion:
    if not samples:
        nothing = torch.empty(0, dtype=torch.int64)
        return Portion(batch.rows.new_zeros(1, batch.rows.shape[1]), torch.ones(1, dtype=torch.int64), [nothing])
    rows = batch.rows[_rows_of(samples.start, shards, batch.lengths)]
    return Portion(rows, batch.lengths[samples.start :: shards], [batch.targets[sample] for sample in samples])


def _rows_of(shard: int, shards: int, lengths: Tensor) -> Tensor:
    """Where the rows of a shard's samples are in those of the batch."""
    return row_mask(torch.arange(len(lengths)) % shards == shard, lengths).nonzero().flatten()
