"""What client and server do alike with their adapters: optimizer, learning-rate schedule, clipping."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from splitcom_dist.config.schema import TrainConfig
from splitcom_dist.devices import to_host
from splitcom_dist.state import State, facts, read_facts

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
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

    def moment_elements(self, parameters: Sequence[nn.Parameter]) -> int:
        """The length of what `moments` gives of them."""
        if isinstance(self._optimizer, torch.optim.SGD):
            return 0
        return sum(len(MOMENTS) * parameter.numel() + 1 for parameter in parameters)

    def moments(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """What the optimizer remembers of these, one float32 vector in host memory: of each parameter its moments and
        the count of its steps; zeros for one that never had a gradient."""
        parts = [torch.zeros(0)]
        for parameter in parameters if self.moment_elements(parameters) else ():
            own = self._optimizer.state.get(parameter) or {}
            shape = [own.get(name, torch.zeros_like(parameter)).flatten() for name in MOMENTS]
            parts += [to_host(part.float()) for part in (*shape, own.get("step", torch.zeros(())).reshape(1))]
        return torch.cat(parts)

    def take_moments(self, parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
        """Go on with these from what another optimizer's `moments` gave."""
        for parameter in parameters if self.moment_elements(parameters) else ():
            *moments, step, vector = vector.split(
                [*[parameter.numel()] * len(MOMENTS), 1, len(vector) - len(MOMENTS) * parameter.numel() - 1]
            )
            self._optimizer.state.pop(parameter, None)
            if step:
                placed = {
                    name: moment.view_as(parameter).to(parameter.device, copy=True)
                    for name, moment in zip(MOMENTS, moments, strict=True)
                }
                self._optimizer.state[parameter] = {"step": step.reshape(()).clone(), **placed}

    def forget(self) -> None:
        """Drop all moments: parameters have other values than those that they are of. The schedule goes on."""
        self._optimizer.state.clear()

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
