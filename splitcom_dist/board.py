"""What ranks tell each other outside the step: a store that all can read, and waits that watch the other side."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch.distributed as dist

from splitcom_dist.comm.failures import culprits, naming
from splitcom_dist.ear import Ear
from splitcom_dist.errors import PeerLost
from splitcom_dist.layout import Layout

T = TypeVar("T")
LOOK_SECONDS = 0.2  # while waiting, between two looks at who has failed and who makes progress
NAP_SECONDS = 0.001, 0.05  # while waiting, the first and the longest between two looks at what is waited for
PATIENCE_SECONDS = 2.0  # what others get to report, or to say for whom they wait, before a lost peer is blamed


class Board:
    """One rank's view of the store.

    Long waits (a whole round, an evaluation) go through it and watch the other side's progress; only transfers that
    are due now wait inside a collective or a receive.
    """

    def __init__(
        self, store: dist.Store, rank: int, layout: Layout, patience_seconds: float, ear: Ear | None = None
    ) -> None:
        """`patience_seconds` is how long those that are waited for may make no progress; with an `ear` what is waited
        for by name is heard at once."""
        self._store = store
        self._ear = ear
        self.rank = rank
        self.layout = layout
        self._patience = patience_seconds
        self._last_beat = 0.0

    def announce(self, key: str, value: str = "1") -> None:
        self._store.set(key, value)

    def heard(self, key: str) -> str | None:
        """What was announced under `key`, None if nothing was."""
        with naming("the rank that hosts the rendezvous store", [], f"a look for {key}"):
            return str(self._store.get(key).decode()) if self._store.check([key]) else None

    def count(self, key: str, more: int = 0) -> int:
        """A counter that all share, after adding `more`."""
        with naming("the rank that hosts the rendezvous store", [], f"a look at {key}"):
            return int(self._store.add(key, more))

    def beat(self) -> None:
        """Say that this rank makes progress; cheap enough to call every step."""
        now = time.monotonic()
        if now - self._last_beat > 1.0:
            self._last_beat = now
            self._store.add(f"beat/{self.rank}", 1)

    def wait_for(self, key: str, ranks: Sequence[int], what: str) -> str:
        """Block until `key` is announced; raises PeerLost if `ranks` make no progress for too long."""
        if (told := self.heard(key)) is not None:
            return told
        return self.wait_until(lambda: self.heard(key), ranks, what, self._ear.listen(key) if self._ear else None)

    def wait_until(
        self, ask: Callable[[], T | None], ranks: Sequence[int], what: str, bell: threading.Event | None = None
    ) -> T:
        """Block until `ask` has an answer; raises PeerLost if `ranks` make no progress for too long. It is asked again
        and again, and as soon as the `bell` rings."""
        beats, since, (nap, longest) = -1, time.monotonic(), NAP_SECONDS
        looked, bell = since, bell or threading.Event()
        while (answer := ask()) is None:
            bell.wait(nap)
            bell.clear()
            nap = min(1.5 * nap, longest)
            if (now := time.monotonic()) - looked < LOOK_SECONDS:  # each look is a round trip to the store, or several
                continue
            looked = now
            self.raise_if_failed()
            told = sum(self._store.add(f"beat/{rank}", 0) for rank in ranks)
            if told != beats:
                beats, since = told, now
            if now - since > self._patience:
                names = ", ".join(self.layout.name_of(rank) for rank in ranks)
                raise PeerLost(f"{names} made no progress for {self._patience:.0f} s during {what}", tuple(ranks))
        return answer

    def report_failure(self) -> bool:
        """True for the first rank that fails: it prints the one line; the others leave quietly."""
        try:
            return bool(self._store.add("failures", 1) == 1)
        except RuntimeError:
            return False  # the store went with the rank that hosts it, which has reported

    def explain(self, error: PeerLost) -> str | None:
        """The line to report when a peer is lost, or None if another rank reports why.

        A rank that waits in vain is often waited for itself, so all that give up say for whom they waited, and
        the blame goes to whom they wait for in the end.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            self._store.set(f"waiting/{self.rank}", json.dumps(error.ranks))
            while time.monotonic() < deadline:
                if self.has_failed():
                    return None
                time.sleep(0.05)
            keys = {rank: f"waiting/{rank}" for rank in range(self.layout.world_size)}
            given_up = {rank: key for rank, key in keys.items() if self._store.check([key])}
            waiting = {rank: json.loads(self._store.get(key)) for rank, key in given_up.items()}
        except RuntimeError:
            return None
        blamed = sorted(culprits(self.rank, waiting))
        if not blamed or set(blamed) == set(error.ranks):
            return str(error)
        return f"{', '.join(map(self.layout.name_of, blamed))} made others wait in vain: {error}"

    def part(self, ranks: int, seconds: float = 5.0) -> None:
        """Leave the store, as `ranks` do in all; rank 0, which may host it, waits a while to be the last."""
        deadline = time.monotonic() + seconds
        with suppress(RuntimeError):
            self._store.add("parted", 1)
            while self.rank == 0 and time.monotonic() < deadline and self._store.add("parted", 0) < ranks:
                time.sleep(0.005)

    def raise_if_failed(self) -> None:
        if self.has_failed():
            raise PeerLost("another rank failed")

    def has_failed(self) -> bool:
        """Whether any rank has reported a failure."""
        try:
            return bool(self._store.add("failures", 0) > 0)
        except RuntimeError:
            return True  # the store went with the rank that hosts it
