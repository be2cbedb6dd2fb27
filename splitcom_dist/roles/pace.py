"""How fast each logical client computes, emulated, and whether a round's deadline has passed for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from splitcom_dist.config.schema import FedConfig, SpeedConfig
from splitcom_dist.state import State, facts, read_facts

STREAM = 0x5BEED  # of the seed, apart from those of batches and rounds


def speeds_of(speed: SpeedConfig, clients: int, seed: int) -> list[float]:
    """Of each logical client, in (0, 1], 1 being that of its rank; the same on every rank."""
    if speed.dist == "list":
        return list(speed.values)
    if speed.dist == "uniform":
        generator = np.random.default_rng(np.random.SeedSequence((seed, STREAM)))
        drawn: list[float] = generator.uniform(speed.low, speed.high, clients).tolist()
        return drawn
    return [1.0] * clients


class Pace:
    """What a rank computes for a client lasts 1 / speed as long as its processor works on it.

    On the host that is the thread's own time: what it waits for a core that others use counts as a part of what the
    slow device takes, and is not stretched as well.

    A deadline is for what a client computes in a round, as it lasts. Waiting is left out, because a step ends for all
    when the slowest is through: by the clock, the fast would miss a deadline together with the slow. So is sending,
    which waits for the server, too.
    """

    def __init__(self, fed: FedConfig, seed: int, on_host: bool = True) -> None:
        """`on_host` if clients compute there, and not on another device, whose time no thread's clock tells."""
        self._work_clock = time.thread_time if on_host else time.perf_counter
        self._speeds: Sequence[float] = speeds_of(fed.speed, fed.clients, seed)
        self._deadline = fed.deadline_seconds if fed.straggler == "deadline" else None
        self._worked: dict[int, float] = {}  # seconds in this round, by client
        self._left_out: dict[int, int] = {}  # turns of this round, by client

    @property
    def has_deadline(self) -> bool:
        return self._deadline is not None

    def speed(self, client: int) -> float:
        return self._speeds[client]

    def worked(self, client: int) -> float:
        """Seconds that this client has computed in the round so far."""
        return self._worked.get(client, 0.0)

    @contextmanager
    def computing(self, client: int) -> Iterator[None]:
        """Around what a device of this client would compute: measured, and stretched by its speed."""
        started, work = time.perf_counter(), self._work_clock()
        yield
        if (speed := self._speeds[client]) < 1:
            lasts = (self._work_clock() - work) / speed
            time.sleep(max(0.0, lasts - (time.perf_counter() - started)))
        self._worked[client] = self._worked.get(client, 0.0) + time.perf_counter() - started

    def is_late(self, client: int) -> bool:
        """Whether the deadline has passed, so that the client leaves out its turns to the end of the round.

        Never before its first turn: it gives something to every round.
        """
        return self._deadline is not None and self._worked.get(client, 0.0) >= self._deadline

    def leave_out(self, client: int) -> None:
        """Count a turn that is left out."""
        self._left_out[client] = self._left_out.get(client, 0) + 1

    def end_round(self) -> list[str]:
        """Begin anew; returns a line about each client that was late."""
        lines = [
            f"client {client} left out {count} turns of the round, after computing for {self._worked[client]:.2f} s"
            for client, count in self._left_out.items()
        ]
        self._worked.clear()
        self._left_out.clear()
        return lines

    def state(self) -> State:
        """Of a round that has begun."""
        return {"facts": facts({"worked": self._worked, "left_out": self._left_out})}

    def load(self, state: State) -> None:
        told = read_facts(state["facts"])
        self._worked = {int(client): seconds for client, seconds in told["worked"].items()}
        self._left_out = {int(client): count for client, count in told["left_out"].items()}
