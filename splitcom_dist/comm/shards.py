"""What the shards of one server tell each other: portions of batches from the leader, rows and losses back to it.

These bytes, and those of the weights that are brought together for every block, stay between the ranks of one server:
they do not cross the cut, and no ledger counts them. The leader orders every pass, for it alone knows which clients
come: one that is lost in a step has no batch, or no backward. A task is three messages: a header, integers, rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.portions import Portion
from splitcom_dist.layout import Layout


class Order(IntEnum):
    """What followers are to do with a portion."""

    PASS = 0  # forward, loss and backward
    FORWARD = 1
    BACKWARD = 2  # rows are the gradient of what an earlier forward gave
    STEP = 3  # there is no more of them


class Task(NamedTuple):
    """`number` tells the forwards of a step apart."""

    order: Order
    number: int
    portion: Portion


class Shards:
    """This rank's place among the ranks of its server. `rows` are (T, width) of `dtype` everywhere.

    Raises PeerLost naming a rank that is gone, or silent for longer than the group's timeout.
    """

    def __init__(self, group: dist.ProcessGroup, layout: Layout, width: int, dtype: torch.dtype) -> None:
        self._group = group
        self._layout = layout
        self._width = width
        self._dtype = dtype
        self.leader, *self.followers = dist.get_process_group_ranks(group)
        self._others = [rank for rank in (self.leader, *self.followers) if rank != dist.get_rank()]

    def __len__(self) -> int:
        return 1 + len(self.followers)

    @contextmanager
    def in_step(self, what: str) -> Iterator[None]:
        """Around a pass through the weights, for which every shard gives its slices."""
        try:
            yield
        except RuntimeError as error:
            if "gloo" not in str(error):
                raise  # a fault of the computation, not of a peer
            with naming(self._layout.one_of(self._others), self._others, what):
                raise

    def hand_out(self, order: Order, number: int, portions: Sequence[Portion], what: str) -> None:
        """The leader's side: a task for each follower, in their order, with the portion it is about."""
        for rank, portion in zip(self.followers, portions, strict=True):
            counts = torch.tensor([len(target) for target in portion.targets])
            integers = torch.cat([portion.lengths, counts, *portion.targets])
            sizes = [len(portion.lengths), len(portion.rows), len(integers)]
            for message in (torch.tensor([order, number, *sizes]), integers, portion.rows):
                self.send(message, rank, what)

    def end_step(self, what: str) -> None:
        """The leader's side: no task comes any more before all shards step."""
        for rank in self.followers:
            self.send(torch.tensor([Order.STEP, 0, 0, 0, 0]), rank, what)

    def take(self, what: str) -> Task | None:
        """A follower's side of `hand_out`; None at the end of a step."""
        header = self.receive((5,), self.leader, what, torch.int64)
        order, number, samples, tokens, count = header.tolist()
        if order == Order.STEP:
            return None
        integers = self.receive((count,), self.leader, what, torch.int64)
        lengths, targets, ids = integers.split([samples, samples, count - 2 * samples])
        rows = self.receive((tokens, self._width), self.leader, what)
        return Task(Order(order), number, Portion(rows, lengths, ids.split(targets.tolist())))

    def send(self, message: Tensor, rank: int, what: str) -> None:
        """Hand a tensor whose shape the other shard knows to it."""
        with naming(self._layout.name_of(rank), [rank], what):
            dist.send(message.detach().contiguous(), rank, group=self._group)

    def receive(self, shape: Sequence[int], rank: int, what: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor that another shard sends; rows unless another type is said."""
        message = torch.empty(*shape, dtype=dtype or self._dtype)
        with naming(self._layout.name_of(rank), [rank], what):
            dist.recv(message, rank, group=self._group)
        return message
