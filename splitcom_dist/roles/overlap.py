"""Whether the micro-batches of a step overlap: as configured, or by what either schedule takes on these machines."""

from statistics import median

from splitcom_dist.config.implied import may_overlap
from splitcom_dist.roles.context import Context
from splitcom_dist.telemetry.records import record_event

WARM_UP = 2  # steps that no measurement counts
TRIAL = WARM_UP + 10  # steps, every second one overlapped


class Overlap:
    """One rank's view. The first server measures and decides; the others hear it before the first step behind."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leads = context.world.rank == context.world.layout.first_server
        self._first: int | None = None  # step of this launch
        self._decided: bool | None = None
        self._seconds: tuple[list[float], list[float]] = ([], [])  # a position, without overlap and with it
        config = context.config
        if config.roles.overlap != "auto" or config.train.micro_batches == 1 or not may_overlap(config):
            self._decided = config.roles.overlap == "full"

    def at(self, step: int) -> bool:
        """Whether this step is overlapped, the same on every rank. Raises PeerLost."""
        if self._decided is None and self._trial(step) >= TRIAL:
            self._decided = self._hear("overlap") == "full"
        return self._trial(step) % 2 == 1 if self._decided is None else self._decided

    def measure(self, step: int, seconds: float, tokens: int) -> None:
        """The first server's word on a step of so many positions; decides behind the last one of the trial."""
        if self._decided is not None or not self._leads:
            return
        if self._trial(step) >= WARM_UP and tokens:
            self._seconds[self.at(step)].append(seconds / tokens)
        if self._trial(step) == TRIAL - 1:
            self._decide(step)

    def _decide(self, step: int) -> None:
        apart, together = (median(times) if times else 0.0 for times in self._seconds)
        choice = "full" if together < apart else "none"
        told = f"{choice}: a position took {together * 1e6:.0f} us overlapped and {apart * 1e6:.0f} us one by one"
        record_event(self._context.log, step, "overlap", told)
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
