"""A shard of a server behind its leader: it computes its portions of the batches that the leader deals out.

It has a slice of the body's frozen weights and a whole copy of the adapters, which takes the steps that the leader's
takes, on the same sum of gradients. It has no edges to clients and reports nothing.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.comm.gradients import StepTotals, sum_gradients
from splitcom_dist.comm.portions import Portion
from splitcom_dist.comm.shards import Order
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.roles.body import WholeBody, WholePassing, make_shards
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.verdicts import await_verdict
from splitcom_dist.state import State, gathered, spread
from splitcom_dist.training import AdapterOptimizer


class ShardRole:
    """Its part in every batch that its leader has: `shards` brings the tasks."""

    def __init__(self, context: Context, model: PreTrainedModel, parameters: Sequence[nn.Parameter]) -> None:
        shards = make_shards(context)
        assert shards is not None
        self.context = context
        self.model = model
        self.body = WholeBody(model)
        self.shards = shards
        self.parameters = list(parameters)
        self.optimizer = AdapterOptimizer(self.parameters, context.config.train, context.schedule.total_steps)

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.model)

    def run(self) -> None:
        if not self.context.course.resumes:
            await_verdict(self.context, -1, None)  # on the model before training
        for step in self.context.course.steps(self):
            self.step(step)
            if self.context.schedule.decides_after(step):
                await_verdict(self.context, step, None)

    def state(self) -> State:
        return {**gathered({"optimizer": self.optimizer}), "adapter": flatten(self.parameters)}

    def load(self, state: State) -> None:
        spread(state, {"optimizer": self.optimizer})
        unflatten_into(state["adapter"], self.parameters)

    def step(self, step: int) -> None:
        """Every task of our leader, then the step that all servers take."""
        passings: dict[int, WholePassing] = {}  # forwards whose backward is to come, by number
        while (task := self.shards.take(f"step {step}")) is not None:
            if task.order is Order.PASS:
                self.forward_backward(task.portion, step)
            elif task.order is Order.FORWARD:
                passings[task.number] = self.forward(task.portion, step)
            else:
                self.backward(passings.pop(task.number), task.portion, step)
        world = self.context.world
        assert world.groups.gradients is not None
        others = world.layout.one_of(rank for rank in world.layout.body_ranks if rank != world.rank)
        nothing = StepTotals(0, 0, 0.0, 0)  # the leader tells what is behind our gradients too
        totals, _ = sum_gradients(self.parameters, nothing, world.groups.gradients, others, step)
        self.optimizer.step_on_mean(totals.targets)

    def forward_backward(self, portion: Portion, step: int) -> None:
        """The standard shape: loss and gradient at the cut back to the leader."""
        what = f"the pass of a batch, step {step}"
        with self.shards.in_step(what):
            loss, gradient = self.body.forward_backward(portion, self.context.head_trains(step), step)
        self.shards.send(torch.tensor([loss], dtype=torch.float64), self.shards.leader, what)
        if gradient is not None:
            self.shards.send(gradient, self.shards.leader, what)

    def forward(self, portion: Portion, step: int) -> WholePassing:
        """The U-shape: the output back to the leader."""
        what = f"the forward of a batch, step {step}"
        with self.shards.in_step(what):
            passing = self.body.forward(portion.rows, portion.lengths, self.context.head_trains(step), step)
        self.shards.send(passing.output, self.shards.leader, what)
        return passing

    def backward(self, passing: WholePassing, gradient: Portion, step: int) -> None:
        """From the gradient of the output that at the cut, back to the leader."""
        what = f"the backward of a batch, step {step}"
        with self.shards.in_step(what):
            at_cut = passing.backward(gradient.rows)
        if at_cut is not None:
            self.shards.send(at_cut, self.shards.leader, what)
