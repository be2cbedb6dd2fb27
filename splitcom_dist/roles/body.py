"""The server's body as its roles use it: rows in, rows or a loss out, gradients back.

One rank computes it whole, or the shards of a server do it together: each takes its samples of every batch, through
weights of which it holds a slice. So K shards hold 1/K of the weights each, and of the activations too, and the work
is shared. Samples do not depend on each other, so rows, losses and summed gradients are those of one rank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.comm.portions import Portion, deal, together, unlabelled
from splitcom_dist.comm.shards import Order, Shards
from splitcom_dist.models.loss import token_loss
from splitcom_dist.models.merged import forward_merged
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.context import Context


class Passing(Protocol):
    """A batch on its way through the body."""

    @property
    def output(self) -> Tensor:
        """Rows (T, d) behind the last block."""
        ...

    def backward(self, gradient: Tensor) -> Tensor | None:
        """From the gradient of `output` that at the cut (T, d), None where heads do not train."""
        ...


class Body(Protocol):
    """Adapter gradients accumulate. Rows (T, d) come with the lengths (B,) of their samples.

    They enter at block `cut_layer`, or where the body begins if that is behind it.
    """

    def forward_backward(
        self, batch: Portion, head_trains: bool, step: int, cut_layer: int = 0
    ) -> tuple[float, Tensor | None]:
        """Loss summed over the targets, and its gradient at the cut (T, d), None where heads do not train."""
        ...

    def forward(self, rows: Tensor, lengths: Tensor, head_trains: bool, step: int, cut_layer: int = 0) -> Passing:
        """As far as the last block, where clients compute the loss. A backward need not follow."""
        ...

    def end_step(self, step: int) -> None:
        """No batch comes any more before adapters step."""
        ...


def make_body(model: PreTrainedModel, context: Context) -> Body:
    """The body of a server whose leader this rank is."""
    shards = make_shards(context)
    return WholeBody(model) if shards is None else SharedBody(WholeBody(model), shards)


def make_shards(context: Context) -> Shards | None:
    """This rank's place among the ranks of its server, None if it is the only one."""
    world = context.world
    if world.groups.shards is None:
        return None
    return Shards(world.groups.shards, world.layout, context.width, context.dtype)


@dataclass(frozen=True)
class WholePassing:
    """Rows in and out, joined by autograd."""

    rows: Tensor
    output: Tensor

    def backward(self, gradient: Tensor) -> Tensor | None:
        self.output.backward(gradient)
        return self.rows.grad


@dataclass(frozen=True)
class WholeBody:
    """All that this rank computes of a body."""

    model: PreTrainedModel

    def forward_backward(
        self, batch: Portion, head_trains: bool, step: int, cut_layer: int = 0
    ) -> tuple[float, Tensor | None]:
        passing = self.forward(batch.rows, batch.lengths, head_trains, step, cut_layer)
        loss = token_loss(self.model, passing.output, batch.lengths, batch.targets)
        loss.backward()
        return float(loss.detach()), passing.rows.grad

    def forward_backward_merged(
        self, batches: Sequence[Portion], head_trains: bool, cuts: Sequence[int]
    ) -> list[tuple[float, Tensor | None]]:
        """What `forward_backward` gives of each, in one forward and one backward of all."""
        for batch in batches:
            batch.rows.requires_grad_(head_trains)
        lengths = [batch.lengths for batch in batches]
        outputs = forward_merged(self.model, [batch.rows for batch in batches], lengths, cuts)
        losses = [
            token_loss(self.model, output, batch.lengths, batch.targets)
            for output, batch in zip(outputs, batches, strict=True)
        ]
        torch.stack(losses).sum().backward()
        return [(float(loss.detach()), batch.rows.grad) for loss, batch in zip(losses, batches, strict=True)]

    def forward(self, rows: Tensor, lengths: Tensor, head_trains: bool, step: int, cut_layer: int = 0) -> WholePassing:
        rows.requires_grad_(head_trains)
        output = forward_blocks(self.model, activation=to_padded(rows, lengths), first=cut_layer)
        return WholePassing(rows, to_ragged(output, lengths))

    def end_step(self, step: int) -> None:
        """Nobody else waits for it."""


@dataclass(frozen=True)
class SharedBody:
    """The leader's side: it deals out batches, computes its own portion, and puts together what comes back.

    All clients of such a server are cut where the body begins.
    """

    own: WholeBody
    shards: Shards
    _numbers: Iterator[int] = field(default_factory=count)  # of forwards

    def forward_backward(
        self, batch: Portion, head_trains: bool, step: int, cut_layer: int = 0
    ) -> tuple[float, Tensor | None]:
        what = f"the pass of a batch, step {step}"
        own, *others = deal(batch, len(self.shards))
        self.shards.hand_out(Order.PASS, 0, others, what)
        with self.shards.in_step(what):
            loss, gradient = self.own.forward_backward(own, head_trains, step)
        for rank in self.shards.followers:
            loss += float(self.shards.receive((1,), rank, what, torch.float64))
        return loss, None if gradient is None else _gather(self.shards, gradient, others, batch.lengths, what)

    def forward(
        self, rows: Tensor, lengths: Tensor, head_trains: bool, step: int, cut_layer: int = 0
    ) -> "SharedPassing":
        what, number = f"the forward of a batch, step {step}", next(self._numbers)
        own, *others = deal(unlabelled(rows, lengths), len(self.shards))
        self.shards.hand_out(Order.FORWARD, number, others, what)
        with self.shards.in_step(what):
            passing = self.own.forward(own.rows, own.lengths, head_trains, step)
        output = _gather(self.shards, passing.output, others, lengths, what)
        return SharedPassing(self.shards, number, passing, lengths, output, step)

    def end_step(self, step: int) -> None:
        self.shards.end_step(f"the end of step {step}")


@dataclass(frozen=True)
class SharedPassing:
    """The leader's side of a batch that all shards have on its way: its own portion, and the rows of all."""

    shards: Shards
    number: int
    own: WholePassing
    lengths: Tensor
    output: Tensor
    step: int

    def backward(self, gradient: Tensor) -> Tensor | None:
        what = f"the backward of a batch, step {self.step}"
        own, *others = deal(unlabelled(gradient, self.lengths), len(self.shards))
        self.shards.hand_out(Order.BACKWARD, self.number, others, what)
        with self.shards.in_step(what):
            at_cut = self.own.backward(own.rows)
        return None if at_cut is None else _gather(self.shards, at_cut, others, self.lengths, what)


def _gather(shards: Shards, own: Tensor, others: Sequence[Portion], lengths: Tensor, what: str) -> Tensor:
    """The rows (T, d) of the whole batch, from those of our portion and what the followers send of theirs."""
    pairs = zip(shards.followers, others, strict=True)
    parts = [shards.receive(portion.rows.shape, rank, what) for rank, portion in pairs]
    return together([own.detach(), *parts], lengths)
