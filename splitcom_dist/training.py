"""What client and server do alike with their adapters: optimizer, learning-rate schedule, clipping."""

import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from splitcom_dist.config.schema import TrainConfig
from splitcom_dist.state import State, facts, read_facts

SCHEDULE_STATE = ("last_epoch", "_step_count", "_last_lr")


class AdapterOptimizer:
    """Optimizer and schedule over one set of adapter parameters; steps are steps of the whole run."""

    def __init__(self, parameters: Sequence[nn.Parameter], train: TrainConfig, total_steps: int) -> None:
        self._parameters = list(parameters)
        self._max_grad_norm = train.max_grad_norm
        if train.optimizer == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self._parameters, lr=train.lr, weight_decay=train.weight_decay
            )
        else:
            self._optimizer = torch.optim.AdamW(self._parameters, lr=train.lr, weight_decay=train.weight_decay)
        self._schedule: LRScheduler = get_scheduler(
            train.schedule,
            self._optimizer,
            num_warmup_steps=train.warmup_steps,
            num_training_steps=total_steps,
        )

    @property
    def lr(self) -> float:
        return float(self._schedule.get_last_lr()[0])

    def state(self) -> State:
        """Moments by parameter, and the schedule's count."""
        moments = {
            f"{index}.{name}": tensor
            for index, own in self._optimizer.state_dict()["state"].items()
            for name, tensor in own.items()
        }
        counts = {name: value for name, value in self._schedule.state_dict().items() if name in SCHEDULE_STATE}
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return moments | {"facts": facts({"schedule": counts, "rates": rates})}

    def load(self, state: State) -> None:
        """Go on as the optimizer that gave `state`, of the same parameters and schedule."""
        told, whole = read_facts(state["facts"]), self._optimizer.state_dict()
        whole["state"] = {}
        for key, tensor in state.items():
            index, _, name = key.partition(".")
            if name:
                whole["state"].setdefault(int(index), {})[name] = tensor.clone()
        self._optimizer.load_state_dict(whole)
        for group, rate in zip(self._optimizer.param_groups, told["rates"], strict=True):
            group["lr"] = rate
        self._schedule.load_state_dict(self._schedule.state_dict() | told["schedule"])

    def rest(self) -> None:
        """Advance the schedule alone, and drop what gradients there are."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch takes a schedule ahead of its optimizer for a slip
            self._schedule.step()
        self._optimizer.zero_grad()

    def catch_up(self, steps: int) -> None:
        """Be at this step of the schedule: where steps pass without this optimizer, its own say little of it."""
        while self._schedule.last_epoch < steps:
            self.rest()

    def step_on_mean(self, targets: int) -> None:
        """Step where gradients are those of a loss summed over so many targets; rest where there are none."""
        if not targets:
            self.rest()
            return
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= targets
        self.step()

    def step(self) -> None:
        """Clip, step, advance the schedule, and clear the gradients."""
        if self._max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
