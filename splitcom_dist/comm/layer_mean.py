"""The mean of layers of which clients and servers hold copies: layer by layer, over whoever has trained it.

In float32. Every target token of a round was trained through a copy of each such layer, a client's or a server's, so
the layers' weights come to the same total; they are summed layer by layer all the same, that each mean is one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splitcom_dist.comm.circle import Circle


def layer_mean_bytes(sizes: Sequence[int]) -> int:
    """Bytes that every rank hands over in an averaging of layers of so many elements."""
    return 4 * (sum(sizes) + len(sizes))


class LayerMean:
    """One rank's end. Vectors begin with the first layer and may end before the last; `sizes` are their elements."""

    def __init__(self, sizes: Sequence[int], circle: Circle) -> None:
        self._sizes = torch.tensor(sizes)
        self._circle = circle
        self._start_anew()

    def elements(self, layers: int) -> int:
        """Of the first so many layers together."""
        return int(self._sizes[:layers].sum())

    def add(self, vector: Tensor, weights: Sequence[float]) -> None:
        """Give a copy (m,) of the first layers, float32, and the weight of each of them, to the next mean."""
        each = torch.tensor(weights, dtype=torch.float32)
        self._sum[: len(vector)] += vector * each.repeat_interleave(self._sizes[: len(each)])
        self._weights[: len(each)] += each

    def mean(self, step: int) -> tuple[Tensor, float, int]:
        """The mean (n,) of what all ranks have added since the last one, bit for bit the same on each.

        Returns the total weight, without which there is no mean to go on from, and the bytes this rank handed over.
        Raises PeerLost.
        """
        buffer = torch.cat([self._sum, self._weights])
        size = self._circle.sum(buffer, step)
        self._start_anew()
        total, weights = buffer.split([len(self._sum), len(self._weights)])
        mean = total / weights.clamp(min=1).repeat_interleave(self._sizes)
        return mean, float(weights.max()), size

    def _start_anew(self) -> None:
        self._sum, self._weights = torch.zeros(int(self._sizes.sum())), torch.zeros(len(self._sizes))
