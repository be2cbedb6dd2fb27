"""Whether ranks live: each tells so a few times within the timeout, from a thread of its own, and listens to others.

Where a run goes on without lost clients, a wait inside a receive or a reduction no longer tells who is at fault, and
cannot be broken off. So a second thread, which never waits for anything, ends this process when its run is over, or
when it is itself what the others have lost.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

WATCH_SECONDS = 0.1
SILENCE = 0.5  # of the timeout: what waits for a lost client must hear of it before others lose patience with itself
GRACE_SECONDS = 5.0  # what the main thread gets to leave by itself once another rank has failed


class Store(Protocol):
    """What we need of a rendezvous store."""

    def add(self, key: str, value: int, /) -> int: ...

    def check(self, keys: list[str], /) -> bool: ...


class Fate(Enum):
    """Why a process must not go on as it is."""

    CUT_OFF = auto()  # the store has not answered for too long
    LOST = auto()  # others have said that this incarnation is lost
    FAILED = auto()  # another rank has failed
    ALONE = auto()  # a rank that nobody can do without was silent for too long


@dataclass
class Signs:
    """What a process knows of the others, with times of a clock in seconds.

    How long others are silent is counted in time that this process has listened: while it is stopped itself, or has no
    processor, nobody is silent.
    """

    limit: float  # seconds of silence
    essential: Sequence[int]  # ranks without which no run goes on
    told: float  # when the store answered last
    failed: float | None = None  # since when another rank has
    lost: bool = False
    listened: float = 0.0  # for so long altogether
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)  # by rank, its last beat, after so much listening

    @property
    def period(self) -> float:
        """Between two looks at the store."""
        return min(1.0, self.limit / 4)

    def look(self, now: float) -> None:
        """The store has answered."""
        self.listened += min(now - self.told, 2 * self.period)
        self.told = now

    def hear(self, rank: int, beat: int) -> None:
        if rank not in self.heard or self.heard[rank][0] != beat:
            self.heard[rank] = beat, self.listened

    def silent(self, rank: int) -> bool:
        return rank in self.heard and self.listened - self.heard[rank][1] > self.limit

    def fate(self, now: float) -> Fate | None:
        if now - self.told > self.limit:
            return Fate.CUT_OFF
        if self.lost:
            return Fate.LOST
        if self.failed is not None and now - self.failed > GRACE_SECONDS:
            return Fate.FAILED
        return Fate.ALONE if any(map(self.silent, self.essential)) else None


class Pulse:
    """This process's beat and its ear. `end` is called once, from a thread, with the fate and whom it is about."""

    def __init__(
        self,
        store: Store,
        rank: int,
        lost_key: str,
        watched: Sequence[int],
        essential: Sequence[int],
        limit_seconds: float,
        end: Callable[[Fate, list[int]], None],
    ) -> None:
        """`store` is a connection of our own: one that the main thread waits on would stop this heart, too."""
        self._store = store
        self._rank = rank
        self._lost_key = lost_key
        self._watched = watched
        self._end = end
        self._signs = Signs(limit_seconds, [each for each in essential if each != rank], time.monotonic())
        self._rests = threading.Event()

    def start(self) -> None:
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True, name=work.__name__).start()

    def rest(self) -> None:
        """The run is over: stop both threads."""
        self._rests.set()

    def hear(self, rank: int) -> None:
        """A watched rank has come back: its silence begins now at the earliest."""
        self._signs.hear(rank, -1)

    def silent(self, rank: int) -> bool:
        """Whether a watched rank has told nothing for too long."""
        return self._signs.silent(rank)

    def _beat(self) -> None:
        signs = self._signs
        while not self._rests.wait(signs.period):
            try:
                self._store.add(f"pulse/{self._rank}", 1)
                beats = {rank: self._store.add(f"pulse/{rank}", 0) for rank in self._watched}
                failed = self._store.add("failures", 0) > 0
                lost = self._store.check([self._lost_key])
            except RuntimeError:
                return  # the store is gone, and with it the run: soon enough we are cut off
            now = time.monotonic()
            signs.look(now)
            for rank, beat in beats.items():
                signs.hear(rank, beat)
            signs.lost = lost
            signs.failed = (signs.failed or now) if failed else None

    def _watch(self) -> None:
        while not self._rests.wait(WATCH_SECONDS):
            if (fate := self._signs.fate(time.monotonic())) is not None:
                self._end(fate, [rank for rank in self._signs.essential if self._signs.silent(rank)])
                return
