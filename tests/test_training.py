"""An optimizer that is resumed takes the steps that it would have taken."""

from collections.abc import Iterator

import pytest
import safetensors.torch
import torch
from torch import nn

from splitcom_dist.config.schema import TrainConfig
from splitcom_dist.training import AdapterOptimizer

STEPS, CUT = 9, 4


def fresh(train: TrainConfig) -> tuple[nn.Parameter, AdapterOptimizer]:
    parameter = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    return parameter, AdapterOptimizer([parameter], train, STEPS)


def walk(parameter: nn.Parameter, optimizer: AdapterOptimizer, steps: range) -> Iterator[tuple[list[float], float]]:
    for step in steps:
        if step == 2:
            optimizer.rest()
        else:
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
        yield parameter.detach().flatten().tolist(), optimizer.lr


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(optimizer: str, schedule: str) -> None:
    train = TrainConfig(optimizer=optimizer, schedule=schedule, lr=0.1, weight_decay=0.01, warmup_steps=2)
    parameter, one = fresh(train)
    list(walk(parameter, one, range(CUT)))
    state = safetensors.torch.load(safetensors.torch.save(dict(one.state())))
    other_parameter, other = fresh(train)
    other_parameter.data.copy_(parameter.data)
    other.load(state)
    assert other.lr == one.lr
    assert list(walk(other_parameter, other, range(CUT, STEPS))) == list(walk(parameter, one, range(CUT, STEPS)))
