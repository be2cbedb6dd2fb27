"""The steps that a rank walks: from where a checkpoint left off, saving when due, to the end or to where all stop.

All ranks save and stop after the same steps. When that is known beforehand it takes no message; when a signal asks for
it, the first server chooses the step it is about to begin. No rank can be past that one, because none passes a step
before the first server has begun it: clients that have no batch in it, and the aggregator, wait for that.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.checkpoints.signals import StopSignals
from splitcom_dist.devices import random_states, restore_random_states
from splitcom_dist.errors import Stopped
from splitcom_dist.schedule import Schedule
from splitcom_dist.state import State, Stateful, facts, gathered, read_facts, spread
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.world import World

log = logging.getLogger(__name__)


@dataclass
class Course:
    """One rank's way through the run; `every` steps between checkpoints, 0 for none but when all stop."""

    schedule: Schedule
    world: World
    books: RankLog
    memory: Mapping[str, Stateful]  # what every rank remembers beside its role
    folder: CheckpointFolder
    every: int
    signals: StopSignals
    first: int = 0  # step
    _seconds: float = 0.0  # of training before this launch
    _since: float = field(default_factory=time.perf_counter)

    @property
    def resumes(self) -> bool:
        """Whether a part of the run is behind us; else it begins with the model before training."""
        return self.first > 0

    @property
    def seconds(self) -> float:
        """Of all launches of this run together, up to the checkpoints that they were resumed from."""
        return self._seconds + time.perf_counter() - self._since

    def resume(self, step: int, state: State, role: Stateful) -> None:
        """Go on behind `step`."""
        spread(state, {"role": role, **self.memory})
        told = read_facts(state["course"])
        self.first, self._seconds, self._since = step + 1, told["seconds"], time.perf_counter()
        restore_random_states(state)

    def enter(self, step: int) -> None:
        """Begin with `step`, as the others do now: this rank comes back to a run that went on without it."""
        self.first = step

    def steps(self, role: Stateful) -> Iterator[int]:
        """Every step once; code behind `yield` runs when its step is done. Raises Stopped."""
        leads = self.world.rank == self._leader
        for step in range(self.first, self.schedule.total_steps):
            if leads:
                stop = self.signals.caught is not None or self.world.heard("stop") is not None
                self.world.announce("begun", f"{step} {int(stop)}")
            yield step
            self.signals.raise_if_interrupted()
            self.books.flush()
            self.world.beat()
            stop = stop if leads else self._hear(step)
            stop = stop and step + 1 < self.schedule.total_steps
            if stop or (self.every and (step + 1) % self.every == 0):
                self._save(step, role)
            if stop:
                self.world.wait_for(f"whole/{step}", self._everybody, "a checkpoint")
                raise Stopped(step)

    def _hear(self, step: int) -> bool:
        """Wait until the first server has begun this step; whether it is to be the last."""

        def ask() -> bool | None:
            if self.signals.caught is not None:
                self.world.announce("stop")
            begun, is_last = map(int, (self.world.heard("begun") or "-1 0").split())
            return (begun == step and bool(is_last)) if begun >= step else None

        return self.world.wait_until(ask, [self._leader], f"step {step}")

    def _save(self, step: int, role: Stateful) -> None:
        """This rank's file; the aggregator makes the checkpoint whole."""
        started = time.perf_counter()
        state = gathered({"role": role, **self.memory})
        told = {"seconds": self.seconds, "rows": self.books.row_counts()}
        state |= {**random_states(), "course": facts(told)}
        digests = self.folder.write(step, self.world.rank, state)
        key = f"saved/{step}"
        self.world.announce(f"{key}/{self.world.rank}", json.dumps(digests))
        if self.world.rank == self.world.layout.aggregator_rank:
            everyones = self.world.hear_all(key, self._everybody, f"the checkpoint after step {step}")
            self.folder.commit(step, {rank: json.loads(told) for rank, told in everyones.items()}, len(self._everybody))
            self.world.announce(f"whole/{step}")
        size = sum(tensor.nbytes for tensor in state.values())
        log.info("step %d: saved %.1f MB in %.2f s", step, size / 1e6, time.perf_counter() - started)

    @property
    def _leader(self) -> int:
        return self.world.layout.first_server

    @property
    def _everybody(self) -> list[int]:
        return list(range(self.world.layout.world_size))
