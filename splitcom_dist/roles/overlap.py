"""How far the micro-batches of a step overlap: as configured, or by what each schedule takes on these machines."""

import math
from statistics import median

from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.config.implied import may_overlap
from splitcom_dist.roles.context import Context
from splitcom_dist.telemetry.records import record_event

SCHEDULES = {"none": Ahead.NOTHING, "transfers": Ahead.CROSSING, "full": Ahead.ENCODING}
WARM_UP = len(SCHEDULES)  # steps that no measurement counts
TRIAL = 5 * len(SCHEDULES)  # steps, of each schedule in turn


class Overlap:
    """One rank's view. The first server measures and decides; the others hear it before the first step behind."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leads = context.world.rank == context.world.layout.first_server
        self._first: int | None = None  # step of this launch
        self._decided: Ahead | None = None
        self._seconds: dict[Ahead, list[float]] = {ahead: [] for ahead in Ahead}  # a position
        config = context.config
        if config.roles.overlap != "auto" or config.train.micro_batches == 1 or not may_overlap(config):
            self._decided = SCHEDULES.get(config.roles.overlap, Ahead.NOTHING)

    def at(self, step: int) -> Ahead:
        """What goes on in this step while ranks compute, the same on every rank. Raises PeerLost."""
        if self._decided is None and self._trial(step) >= TRIAL:
            self._decided = SCHEDULES[self._hear("overlap")]
        return Ahead(self._trial(step) % len(Ahead)) if self._decided is None else self._decided

    def measure(self, step: int, seconds: float, tokens: int) -> None:
        """The first server's word on a step of so many positions; decides behind the last one of the trial."""
        if self._decided is not None or not self._leads:
            return
        if self._trial(step) >= WARM_UP and tokens:
            self._seconds[self.at(step)].append(seconds / tokens)
        if self._trial(step) == TRIAL - 1:
            self._decide(step)

    def _decide(self, step: int) -> None:
        taken = {name: median(self._seconds[ahead] or [math.inf]) for name, ahead in SCHEDULES.items()}
        choice = min(taken, key=taken.__getitem__)
        told = ", ".join(f"{seconds * 1e6:.0f} us with {name}" for name, seconds in taken.items())
        record_event(self._context.log, step, "overlap", f"{choice}: a position took {told}")
        self._context.world.announce("overlap", choice)

    def _trial(self, step: int) -> int:
        """Steps since this launch began; who comes back later hears when that was."""
        if self._first is None:
            if self._leads:
                self._first = self._context.course.first
                self._context.world.announce("overlap/first", str(self._first))
            else:
                self._first = int(self._hear("overlap/first"))
        return step - self._first

    def _hear(self, key: str) -> str:
        world = self._context.world
        return world.wait_for(key, [world.layout.first_server], "the choice of a schedule")
