"""Intra prediction: which row that the receiver holds a new row resembles most.

Activations of different texts are alike where their last tokens are, and the new row is then the change from that
other position's reference, as a block of a picture is from another place of it (motion compensation in video coding).
The sender finds it by value, so it works on every activation link and no token is looked at.
"""

import torch
from torch import Tensor

from splitcom_dist.state import State

SKETCH = 32  # rows of the random projection in which rows are compared
WINDOW = 8192  # newest rows that are compared
FURTHEST = 2**16 - 1  # how far behind the newest key of a packet a neighbour's key may lie; 0 stands for none


class Neighbours:
    """Sketches of the rows that were last sent whole, on the sending end; what it finds crosses as a key."""

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._projection = torch.randn(width, SKETCH, generator=generator)
        self.clear()

    def clear(self) -> None:
        self._keys = torch.empty(0, dtype=torch.int64)
        self._sketches = torch.empty(0, SKETCH)

    def state(self) -> State:
        return {"keys": self._keys, "sketches": self._sketches}

    def load(self, state: State) -> None:
        self._keys, self._sketches = state["keys"].clone(), state["sketches"].clone()

    def add(self, keys: Tensor, rows: Tensor) -> None:
        """Rows (n, d) float32 that the receiver holds from now on, by key (n,)."""
        self._keys = torch.cat([self._keys, keys])[-WINDOW:]
        self._sketches = torch.cat([self._sketches, rows @ self._projection])[-WINDOW:]

    def nearest(self, rows: Tensor) -> Tensor:
        """Keys (n,) of what rows (n, d) are likely to be nearest to; -1 while nothing is held."""
        if not len(self._keys) or not len(rows):
            return torch.full((len(rows),), -1)
        sketches = rows @ self._projection
        # |a - b|^2 without |a|^2, which is the same for every candidate b
        distance = self._sketches.square().sum(dim=1) - 2 * sketches @ self._sketches.T
        return self._keys[distance.argmin(dim=1)]
