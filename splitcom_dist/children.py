"""Processes that this one has started: forked from it, or by a command line."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Protocol

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Called in a child: whatever ends its parent takes the child with it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child(Protocol):
    @property
    def code(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, None while it runs."""
        ...

    def send(self, number: int) -> None:
        """Give it a signal, if it runs."""
        ...

    def wait(self, seconds: float) -> None:
        """Until it has ended, so long at most."""
        ...


class Forked:
    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def code(self) -> int | None:
        return self._process.exitcode

    def send(self, number: int) -> None:
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> None:
        self._process.join(seconds)


class Started:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
