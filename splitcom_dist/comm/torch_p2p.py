"""Point-to-point over torch.distributed: one group of two ranks an edge, messages are uint8 vectors.

Gloo's traps, which the edge above avoids: a message longer than the posted buffer aborts the receiving process, a
shorter one arrives silently, and a timeout closes the pair for good.
"""

import torch.distributed as dist
from torch import Tensor


class TorchTransport:
    """The channel from this rank to `peer` inside `group`."""

    def __init__(self, group: dist.ProcessGroup, peer: int) -> None:
        self._group = group
        self.peer = peer

    def send(self, message: Tensor) -> None:
        """Send a uint8 vector; returns when the peer's transport has taken it. RuntimeError if it cannot."""
        dist.send(message, self.peer, group=self._group)

    def post_receive(self, buffer: Tensor) -> dist.Work:
        """Start receiving into `buffer`; `wait()` on the result raises RuntimeError on loss or timeout."""
        work = dist.irecv(buffer, self.peer, group=self._group)
        assert work is not None
        return work
