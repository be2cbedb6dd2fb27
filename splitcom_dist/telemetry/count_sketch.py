"""Count sketch of whole samples: k numbers that tell the cosine of any two visits of one sample, whatever the codec."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.ragged import sample_index
from splitcom_dist.devices import to_device

SEED = 20_240_601  # one for all clients, links, epochs and runs, so that any two sketches of equal k and d compare


class CountSketch:
    """Every element (position, channel) of a sample has a bucket below k and a sign; a sketch is the signed sums.

    Inner products are unbiased with a variance below 2 |a|^2 |b|^2 / k, that of a Gaussian projection: the cosine of
    two sketches is off by about (1 - rho^2) / sqrt(k).
    """

    def __init__(self, k: int, width: int, positions: int) -> None:
        self.k = k
        self._bucket, self._sign = _elements(k, width, positions)

    def __call__(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Rows (T, d) float32 of samples of at most `positions` rows, (B,) -> (B, k) float32, where the rows are."""
        index = sample_index(lengths)
        place = to_device(index.unsqueeze(1) * self.k + self._bucket[position_in_sample(lengths)], rows.device)
        signed = rows * to_device(self._sign[position_in_sample(lengths)], rows.device)
        sums = torch.zeros(len(lengths) * self.k, device=rows.device)
        return sums.index_add_(0, place.flatten(), signed.flatten()).view(len(lengths), self.k)


def position_in_sample(lengths: Tensor) -> Tensor:
    """Of each row, from 0: (B,) -> (T,)."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)


@cache  # all links of a rank share it
def _elements(k: int, width: int, positions: int) -> tuple[Tensor, Tensor]:
    """Buckets int32 and signs int8, (positions, d) each; those of fewer positions are the first of more."""
    drawn = np.random.default_rng(SEED).integers(2 * k, size=(positions, width), dtype=np.int32)
    return torch.from_numpy(drawn >> 1), torch.from_numpy((2 * (drawn & 1) - 1).astype(np.int8))
