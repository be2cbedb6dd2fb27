"""SIGTERM and SIGUSR1 ask a rank to stop after a step; one that comes later ends it at once, as Ctrl-C does."""

import os
import signal
import time
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)
ECHO_SECONDS = 5.0  # launchers and batch systems may each pass one on: within this they are the same signal
RESUME_ME = 75  # exit code EX_TEMPFAIL of sysexits.h: stopped whole, start me again
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class StopSignals:
    """Whether one of them has come. The handler only notes it: a store or a collective may be busy underneath.

    SIGINT raises KeyboardInterrupt, and is noted too: Python drops what is raised inside a weak reference's callback or
    a finalizer, so that the exception alone may never be seen.
    """

    def __init__(self) -> None:
        self.caught: str | None = None
        self.interrupted = False
        self._when = 0.0

    def listen(self) -> None:
        """From now on; main thread only."""
        for number in ASKING:
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
            signal.signal(signal.SIGINT, self._interrupt)

    def raise_if_interrupted(self) -> None:
        """Raises the KeyboardInterrupt that was dropped."""
        if self.interrupted:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on: srun sends SIGTERM to the ranks that leave a little after the first."""
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught is None:
            self.caught, self._when = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._when > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt
