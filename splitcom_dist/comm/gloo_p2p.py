"""Point-to-point over Gloo: one group of two ranks an edge, messages are uint8 vectors.

Gloo's traps, which the edge above avoids: a message longer than the posted buffer aborts the receiving process, a
shorter one arrives silently, and a timeout closes the pair for good. So a pair stands outside torch.distributed's list
of groups, which no rank could join a second time: a broken one is left, and made anew under another name.
"""

from datetime import timedelta

import torch.distributed as dist
from torch import Tensor


class GlooPair:
    """The channel from this rank to `peer`."""

    def __init__(self, store: dist.Store, name: str, rank: int, peer: int, timeout_seconds: float) -> None:
        """Meet the peer under `name`, within the timeout, which every later wait has too. RuntimeError if it fails."""
        self.peer = peer
        self._other = int(peer > rank)
        patience = timedelta(seconds=timeout_seconds)
        self._group = dist.ProcessGroupGloo(dist.PrefixStore(name, store), 1 - self._other, 2, patience)

    def send(self, *messages: Tensor) -> None:
        """Send vectors, one after the other; returns when the peer's transport has taken them. RuntimeError if it
        cannot."""
        for work in [self.post_send(message) for message in messages]:
            work.wait()

    def post_send(self, message: Tensor) -> dist.Work:
        """Start sending a vector, behind those that are under way; `wait()` on the result raises RuntimeError on loss
        or timeout."""
        work: dist.Work = self._group.send([message], self._other, 0)  # type: ignore[attr-defined]
        return work

    def post_receive(self, buffer: Tensor) -> dist.Work:
        """Start receiving into `buffer`; `wait()` on the result raises RuntimeError on loss or timeout."""
        work: dist.Work = self._group.recv([buffer], self._other, 0)  # type: ignore[attr-defined]
        return work

    def receive(self, buffer: Tensor) -> None:
        """Receive into `buffer`, which must be as long as the message. RuntimeError on loss or timeout."""
        self.post_receive(buffer).wait()
