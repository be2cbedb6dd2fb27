"""SIGTERM and SIGUSR1 ask a rank to stop after a step; the second one ends it at once."""

import os
import signal
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)
RESUME_ME = 75  # exit code EX_TEMPFAIL of sysexits.h: stopped whole, start me again


class StopSignals:
    """Whether one of them has come. The handler only notes it: a store or a collective may be busy underneath."""

    def __init__(self) -> None:
        self.caught: str | None = None

    def listen(self) -> None:
        """From now on; main thread only."""
        for number in ASKING:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.caught = signal.Signals(number).name
