"""Who is in memory, and what a parked client takes along: no ranks, no model."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.gated.gate import Drift
from splitcom_dist.errors import UserError
from splitcom_dist.roles.roster import Roster
from splitcom_dist.state import State, gathered, part_of

LINK = "up_activation"


class Counter:
    """A member that counts its turns, and whether it still lives."""

    alive: ClassVar[set["Counter"]] = set()

    def __init__(self) -> None:
        self.count = torch.zeros(2, dtype=torch.int64)
        self.outgoing: Mapping[str, Any] = {
            LINK: SimpleNamespace(link=LINK, drift=Drift(), encoder=SimpleNamespace(theta=0.5))
        }
        Counter.alive.add(self)

    def turn(self) -> tuple[int, float]:
        self.count += 1
        total, count = self.outgoing[LINK].drift.take()
        self.outgoing[LINK].drift.put_back(total + 0.1, count + 1)
        return int(self.count[0]), self.outgoing[LINK].encoder.theta

    def state(self) -> State:
        views = dict(zip(("first", "second"), self.count, strict=True))  # of one storage
        return views | gathered({"drift": self.outgoing[LINK].drift})

    def load(self, state: State) -> None:
        self.count = torch.stack([state["first"], state["second"]])
        self.outgoing[LINK].drift.load(part_of(state, "drift"))

    def close(self) -> None:
        Counter.alive.discard(self)


def roster(folder: Path, resident: int) -> Roster[Any]:
    Counter.alive = set()
    return Roster(lambda number: Counter(), resident, lambda number: folder / f"{number}.safetensors")


@given(
    waves=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True), min_size=1, max_size=12),
    resident=st.integers(0, 4),
    resume_at=st.integers(0, 11),
)
def test_parking_and_resuming_change_nothing(
    waves: list[list[int]], resident: int, resume_at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    everybody, few = roster(tmp_path_factory.mktemp("all"), 0), roster(tmp_path_factory.mktemp("few"), resident)
    for index, wave in enumerate(waves):
        told = {LINK: index / 16}
        if index % 3 == 1:
            everybody.hear(told)
            few.hear(told)
        expected = [client.turn() for client in everybody.present(wave)]
        Counter.alive = set(few._present.values())
        assert [client.turn() for client in few.present(wave)] == expected
        if resident:
            assert len(Counter.alive) == len(few._present) <= max(resident, len(wave))
        if index % 4 == 2:
            assert few.take_drift() == everybody.take_drift()
        if index == resume_at:
            state, few = few.state(), roster(tmp_path_factory.mktemp("again"), resident)
            few.load(state)
            assert few.known == everybody.known
    assert few.take_drift() == everybody.take_drift()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    clients = roster(tmp_path, 2)
    for number in (0, 1, 0, 2):
        clients[number].turn()
    assert clients.get(1) is None and clients.get(0) is not None
    assert [int(clients.peek(number)["first"]) for number in (0, 1, 2)] == [2, 1, 1]


def test_a_parked_client_that_is_damaged_is_named(tmp_path: Path) -> None:
    clients = roster(tmp_path, 1)
    clients.present([0])
    clients.present([1])
    (tmp_path / "0.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"0.safetensors: cannot bring back client 0 .*fed.resident=0"):
        clients.present([0])
