"""What a run met on its way that no threshold is asked for in a replay: its schedule, losses and other bytes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import Observation
from splitcom_dist.layout import layout_for
from splitcom_dist.replay.logs import RunLogs
from splitcom_dist.schedule import Schedule, schedule_for


@dataclass(frozen=True)
class Course:
    """Of a logged run. Losses and movements are as they were, whatever a replayed controller decides."""

    logs: RunLogs

    @cached_property
    def steps_per_epoch(self) -> int:
        train = self.logs.train
        return int(train["step"][train["epoch"] == 0].max(initial=-1)) + 1

    @cached_property
    def steps(self) -> int:
        """Of the run, as far as it went."""
        return int(self.logs.train["step"].max(initial=-1)) + 1

    def schedule(self, config: Config) -> Schedule:
        """When a controller of `config` would have decided."""
        shard = self.steps_per_epoch * config.train.batch_size
        return schedule_for(config, layout_for(config), (shard,) * config.fed.clients)

    def decisions(self, config: Config) -> list[int]:
        """The steps after which it would have; -1 is before training."""
        schedule = self.schedule(config)
        return [-1, *(step for step in range(self.steps) if schedule.decides_after(step))]

    def observation(self, last: int, step: int, decisions: int) -> Observation:
        """What a controller was told after `step`, having been asked after `last`, but for the use of links; one of
        so many decisions."""
        epoch = step // self.steps_per_epoch
        progress = (step + 1) / (self.steps_per_epoch * self.logs.config.train.epochs)
        if step < 0:
            return Observation(step, epoch, progress, self._validation_loss(step))
        return Observation(
            step,
            epoch,
            progress,
            validation_loss=self._validation_loss(step),
            train_loss=self._train_loss(last, step),
            other_bytes=self._other_bytes(last, step, decisions),
            lr=self._lr(step),
            movement=self._movement(last, step),
        )

    def _validation_loss(self, step: int) -> float | None:
        rows = self.logs.evaluations
        found = rows["loss"][(rows["step"] == step) & (rows["split"] == b"validation")]
        return float(found[-1]) if len(found) else None

    def _train_loss(self, last: int, step: int) -> float:
        rows = self.logs.train
        rows = rows[(rows["step"] > last) & (rows["step"] <= step) & (rows["client"] >= 0)]
        rows = rows[~np.isnan(rows["loss"])]
        return float((rows["loss"] * rows["target_tokens"]).sum() / max(1, rows["target_tokens"].sum()))

    def _other_bytes(self, last: int, step: int, decisions: int) -> int:
        """Averages and gradients when they crossed; adapters for evaluations and reports evenly."""
        rows = self.logs.adapter_rows
        own = rows[(rows[:, 0] > last) & (rows[:, 0] <= step), 1].sum()
        return int(own + (self.logs.other_bytes - rows[:, 1].sum()) / decisions)

    def _movement(self, last: int, step: int) -> float:
        """Summed over averages; as much as the learning rate where it was not logged."""
        rows = self.logs.movements
        if not len(rows):
            return self._lr(step)
        return float(rows[(rows[:, 0] > last) & (rows[:, 0] <= step), 1].sum())

    def _lr(self, step: int) -> float:
        """Of the step behind this one, as ranks report it; 0 behind the last."""
        rows = self.logs.train
        found = rows["lr"][(rows["step"] == step + 1) & (rows["client"] >= 0)]
        return float(found[0]) if len(found) else 0.0
