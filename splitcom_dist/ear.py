"""Hearing of a key as soon as it is in the store, where asking again and again would be late or dear.

The store's own wait keeps its connection from everybody else in the process, and prints warnings when it times out. So
it is a thread's, over a connection of its own, and lasts as long as it takes; who listens has timeouts.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

FOREVER = timedelta(days=7)


class Ear:
    """One key at a time: a wait that was given up keeps the connection, and later ones hear nothing."""

    def __init__(self, open_store: Callable[[], dist.Store]) -> None:
        """`open_store` makes a connection; it is called once, when there is something to listen for."""
        self._open_store = open_store
        self._store: dist.Store | None = None

    def listen(self, key: str) -> threading.Event:
        """What is set once `key` is there. It may never be: ask the store, now and then."""
        bell = threading.Event()
        threading.Thread(target=self._wait, args=(key, bell), daemon=True, name=f"ear for {key}").start()
        return bell

    def _wait(self, key: str, bell: threading.Event) -> None:
        with suppress(RuntimeError):  # the store has gone: whoever asks it is told
            self._store = self._store or self._open_store()
            self._store.wait([key], FOREVER)
        bell.set()
