"""When a basis pays, and what it is learnt from."""

import torch
from torch import Tensor

from splitcom_dist.codec.video.basis import basis_bytes
from splitcom_dist.state import State

ROWS = 2  # times d of them make a basis; twice as many are kept
PAID = 3  # and its bytes must have been spent so many times on symbols: who sends little cannot win them back


class Lessons:
    """Changes (n, d) that were sent while there was no basis, the newest, and the bytes of symbols they took.

    A basis is bought when as much has been spent without it as it could save (ski rental, Karlin et al. 1988), since
    nobody knows how much will follow. The factor is ours: a basis saves a fifth to a third of what follows.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self.clear()

    def clear(self) -> None:
        self.changes = torch.empty(0, self._width)
        self._spent = 0

    def note(self, changes: Tensor, size: int) -> None:
        """Changes (n, d) that crossed in `size` bytes."""
        self.changes = torch.cat([self.changes, changes])[-2 * ROWS * self._width :]
        self._spent += size

    @property
    def suffice(self) -> bool:
        """Whether there are enough of them, and enough was spent."""
        return len(self.changes) >= ROWS * self._width and self._spent >= PAID * basis_bytes(self._width)

    def state(self) -> State:
        return {"changes": self.changes, "spent": torch.tensor(self._spent)}

    def load(self, state: State) -> None:
        self.changes, self._spent = state["changes"].clone(), int(state["spent"])
