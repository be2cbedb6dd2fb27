"""A server's copies of the blocks that clients with a deeper cut train themselves; it trains them for the others."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from splitcom_dist.comm.gradients import StepTotals
from splitcom_dist.comm.layer_mean import LayerMean
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.state import State


class SharedBlocks:
    """`parameters` are the adapters of each block of `cuts.shared`, in order."""

    def __init__(self, cuts: Cuts, parameters: Sequence[Sequence[nn.Parameter]], mean: LayerMean) -> None:
        self._cuts = cuts
        self._blocks = [list(block) for block in parameters]
        self._mean = mean
        self._targets = torch.zeros(len(self._blocks), dtype=torch.int64)  # by block, since the last averaging

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for block in self._blocks for parameter in block]

    @property
    def by_number(self) -> Mapping[int, Sequence[nn.Parameter]]:
        return dict(zip(self._cuts.shared, self._blocks, strict=True))

    def count(self, targets: Mapping[int, int]) -> tuple[int, ...]:
        """Take note of a step, given the target tokens of each client; returns those that each block is trained on."""
        served = self._cuts.trained_by_servers(targets)
        self._targets += torch.tensor(served)
        return tuple(served)

    def weigh(self, totals: StepTotals) -> None:
        """Scale gradients of summed losses so that, divided by the targets of a step, each is the mean over its own.

        A block that has none has no gradient: all clients of this step train it themselves.
        """
        for block, count in zip(self._blocks, totals.of_shared, strict=True):
            for parameter in block:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad * (totals.targets / count) if count else None

    def average(self, step: int) -> tuple[float, int]:
        """Give the blocks to the averaging after a step, and go on from the mean.

        Returns the total weight and the bytes handed over.
        """
        self._mean.add(flatten(self.parameters), self._targets.tolist())
        mean, weight, size = self._mean.mean(step)
        if weight:
            unflatten_into(mean, self.parameters)
        self._targets.zero_()
        return weight, size

    def state(self) -> State:
        """The blocks themselves are a part of the server's adapter."""
        return {"targets": self._targets}

    def load(self, state: State) -> None:
        self._targets = state["targets"].clone()
