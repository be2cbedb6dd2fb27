"""What client and server do alike with their adapters: optimizer, learning-rate schedule, clipping."""

import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from splitcom_dist.config import TrainConfig


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

    def rest(self) -> None:
        """Advance the schedule alone, and drop what gradients there are."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch takes a schedule ahead of its optimizer for a slip
            self._schedule.step()
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Clip, step, advance the schedule, and clear the gradients."""
        if self._max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
