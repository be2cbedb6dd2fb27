"""Packets that come in and leave while a rank computes: a thread does what was asked for, in that order.

It lives in what releases the interpreter: waits for a peer, operators of torch, checksums. Each wait has the timeout of
its transport, so that whoever waits for an outcome here does not wait longer than for the transport itself.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

LAST_SECONDS = 1.0  # for a thread that has nothing to do

Asked = TypeVar("Asked")
Done = TypeVar("Done")


class Background(Generic[Asked, Done]):
    """`act` does one thing; what it raises is raised where its outcome is opened, and for all behind it."""

    def __init__(self, act: Callable[[Asked], Done], name: str, bell: threading.Event | None = None) -> None:
        """`bell` is rung whenever there is something to open."""
        self.due = 0  # asked for, not yet opened
        self._act = act
        self._bell = bell
        self._asked: SimpleQueue[Asked | None] = SimpleQueue()
        self._arrived: SimpleQueue[Done | Exception] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, what: Asked) -> None:
        """Do this behind what was asked for before."""
        self.due += 1
        self._asked.put(what)

    @property
    def has_arrived(self) -> bool:
        """Whether `open` would not wait."""
        return not self._arrived.empty()

    def open(self) -> Done:
        """The outcome of the first that was asked for and not opened yet, once it is there."""
        self.due -= 1
        arrived = self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def interrupt(self, error: Exception) -> None:
        """Let whoever opens next raise this: what it waits for will not come."""
        self._put(error)

    def close(self) -> None:
        """End the thread; one that waits for what nobody will open any more is left to its timeout."""
        self._asked.put(None)
        if not self.due:
            self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        failure: Exception | None = None
        while (what := self._asked.get()) is not None:
            try:
                arrived: Done | Exception = failure or self._act(what)
            except Exception as error:
                arrived = failure = error
            self._put(arrived)
            del what, arrived  # their memory is free until there is more to do

    def _put(self, arrived: Done | Exception) -> None:
        self._arrived.put(arrived)
        if self._bell is not None:
            self._bell.set()
