"""Packets that come in while a rank computes: a thread of an edge receives what was asked for, in that order.

It lives in waits that release the interpreter, for a peer, or for the checksum of what has come. Each of them has the
timeout of its transport, so that whoever waits for a packet here does not wait longer than for the transport itself.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from splitcom_dist.codec.wire import Expected

LAST_SECONDS = 1.0  # for a thread that has nothing to do

T = TypeVar("T")


class Inbox(Generic[T]):
    """`take` receives one packet; what it raises is raised where that packet is opened, and for all behind it."""

    def __init__(self, take: Callable[[Expected], T], name: str, bell: threading.Event | None = None) -> None:
        """`bell` is rung whenever there is something to open."""
        self.due = 0  # asked for, not yet opened
        self._take = take
        self._bell = bell
        self._asked: SimpleQueue[Expected | None] = SimpleQueue()
        self._arrived: SimpleQueue[T | Exception] = SimpleQueue()
        self._thread = threading.Thread(target=self._receive, name=name, daemon=True)
        self._thread.start()

    def ask(self, expected: Expected) -> None:
        """Receive a packet behind those that were asked for before."""
        self.due += 1
        self._asked.put(expected)

    @property
    def has_arrived(self) -> bool:
        """Whether `open` would not wait."""
        return not self._arrived.empty()

    def open(self) -> T:
        """The first packet that was asked for and not opened yet, once it is here."""
        self.due -= 1
        arrived = self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def close(self) -> None:
        """End the thread; one that waits for what nobody will open any more is left to its timeout."""
        self._asked.put(None)
        if not self.due:
            self._thread.join(LAST_SECONDS)

    def _receive(self) -> None:
        failure: Exception | None = None
        while (expected := self._asked.get()) is not None:
            try:
                arrived: T | Exception = failure or self._take(expected)
            except Exception as error:
                arrived = failure = error
            self._arrived.put(arrived)
            if self._bell is not None:
                self._bell.set()
