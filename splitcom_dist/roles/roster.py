"""A rank's logical clients, of which few need be in memory: the others are parked on disk until their next turn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from splitcom_dist.errors import UserError
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.run_directory import save_tensors
from splitcom_dist.state import State, Stateful, facts, read_facts

Drifts = dict[str, tuple[float, int]]  # by link, what `Drift.take` gives


class Member(Stateful, Protocol):
    """What one end keeps of one logical client."""

    @property
    def outgoing(self) -> Mapping[str, Outgoing]: ...

    def close(self) -> None:
        """Give up what is not freed with the object: files of references."""
        ...


M = TypeVar("M", bound=Member)


class Roster(Generic[M]):
    """Clients by number, made by `make` on their first turn; whether they were parked since changes no bit of them.

    At most `resident` of them are in memory (0: all), but always those of one wave. What a parked one does not hear,
    thresholds, it is given when it comes back; what is asked of all, drift, it leaves behind when it goes.
    """

    def __init__(self, make: Callable[[int], M], resident: int, path_of: Callable[[int], Path]) -> None:
        self._make = make
        self._resident = resident
        self._path_of = path_of
        self._present: dict[int, M] = {}  # least recently used first
        self._parked: dict[int, Drifts] = {}  # what each left behind
        self._theta: dict[str, float] = {}

    def __getitem__(self, number: int) -> M:
        return self.present([number])[0]

    def present(self, numbers: Sequence[int]) -> list[M]:
        """Clients of one wave, in memory together until the next call."""
        self._make_room(numbers)
        for number in numbers:  # the dict's order is that of use
            self._present[number] = self._present.pop(number) if number in self._present else self._bring(number)
        return [self._present[number] for number in numbers]

    def get(self, number: int) -> M | None:
        """A client, if it is in memory; this is no use of it."""
        return self._present.get(number)

    def peek(self, number: int) -> State:
        """The state of a client that has had a turn, wherever it is; not to be changed."""
        return self._present[number].state() if number in self._present else self._read(number)

    def forget(self, numbers: Sequence[int]) -> None:
        """These begin afresh with their next turn."""
        for number in numbers:
            if (client := self._present.pop(number, None)) is not None:
                client.close()
            self._parked.pop(number, None)

    def hear(self, theta: Mapping[str, float]) -> None:
        """A verdict: thresholds by link, for every client from its next turn on."""
        self._theta |= theta
        for client in self._present.values():
            self._tell(client)

    def take_drift(self) -> Drifts:
        """The drift of all clients together since this was last asked, summed in the order of their numbers."""
        total: Drifts = {}
        for number in self.known:
            left = _drift_of(self._present[number]) if number in self._present else self._parked[number]
            for link, (drift, count) in left.items():
                known = total.get(link, (0.0, 0))
                total[link] = known[0] + drift, known[1] + count
        self._parked = {number: {} for number in self._parked}
        return total

    def state(self) -> State:
        """Of all clients that have had a turn, parked ones too."""
        told = {"clients": self.known, "parked": self._parked, "theta": self._theta}
        states = {f"{number}.{key}": part for number in self.known for key, part in self.peek(number).items()}
        return states | {"facts": facts(told)}

    def load(self, state: State) -> None:
        """Go on as the roster that gave `state`, whatever the limit of either."""
        told = read_facts(state["facts"])
        self._theta = told["theta"]
        parts: dict[str, dict[str, Tensor]] = {str(number): {} for number in told["clients"]}
        for key, tensor in state.items():
            number, _, name = key.partition(".")
            if name:
                parts[number][name] = tensor
        for number in told["clients"]:
            self._make_room([number])
            client = self._make(number)
            client.load(parts[str(number)])
            self._welcome(client, told["parked"].get(str(number), {}))
            self._present[number] = client

    @property
    def known(self) -> list[int]:
        """Clients that have had a turn, ascending."""
        return sorted([*self._present, *self._parked])

    def _make_room(self, numbers: Sequence[int]) -> None:
        """Park the least recently used clients, so that these fit in."""
        if not self._resident:
            return
        idle = [number for number in self._present if number not in numbers]
        surplus = len(idle) + len(numbers) - max(self._resident, len(numbers))
        for number in idle[: max(0, surplus)]:
            self._park(number)

    def _park(self, number: int) -> None:
        client = self._present[number]
        left = _drift_of(client)
        with self._naming(number, "park"):
            save_tensors(self._path_of(number), client.state())
        client.close()
        del self._present[number]
        self._parked[number] = left

    def _bring(self, number: int) -> M:
        client = self._make(number)
        if number in self._parked:
            client.load(self._read(number))
        self._welcome(client, self._parked.pop(number, {}))
        return client

    def _welcome(self, client: M, left: Mapping[str, Sequence[float]]) -> None:
        """Give a client what it left behind, and what it has missed."""
        for link, (drift, count) in left.items():
            client.outgoing[link].drift.put_back(drift, int(count))
        self._tell(client)

    def _tell(self, client: M) -> None:
        for flow in client.outgoing.values():
            flow.encoder.theta = self._theta.get(flow.link, flow.encoder.theta)

    def _read(self, number: int) -> State:
        with self._naming(number, "bring back"):
            return load_file(self._path_of(number))

    @contextmanager
    def _naming(self, number: int, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{self._path_of(number)}: cannot {what} client {number} ({reason}): "
                "free space there, or set fed.resident=0 to keep all in memory"
            ) from None


def _drift_of(client: Member) -> Drifts:
    return {link: flow.drift.take() for link, flow in client.outgoing.items()}
