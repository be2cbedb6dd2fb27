"""Micro-batches cover a batch once, in order; and which schedule a run takes is what its first steps measured."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.config.schema import Config
from splitcom_dist.data.batching import in_micro_batches
from splitcom_dist.layout import Layout
from splitcom_dist.roles import overlap as overlap_module
from splitcom_dist.roles.overlap import SCHEDULES, TRIAL, WARM_UP, Overlap
from splitcom_dist.roles.pipeline import groups, place_in
from splitcom_dist.roles.turn import Turn, whole_turns
from splitcom_dist.schedule import Schedule


@given(size=st.integers(1, 20), parts=st.integers(1, 20))
def test_a_batch_is_cut_evenly_in_its_order(size: int, parts: int) -> None:
    batch = list(range(size))
    cut = in_micro_batches(batch, parts)
    assert [sample for part in cut for sample in part] == batch
    assert len(cut) == min(parts, size) and max(map(len, cut)) - min(map(len, cut)) <= 1


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3), batch=st.integers(1, 8), parts=st.integers(1, 9))
def test_both_ends_know_how_many_parts_a_batch_has(sizes: list[int], batch: int, parts: int) -> None:
    layout = Layout(len(sizes), 1, len(sizes))
    schedule = Schedule(layout, tuple(sizes), batch, 2, 3, 1, micro_batches=parts)
    for step in range(schedule.total_steps):
        for client in schedule.active_clients(step):
            samples = schedule.batch(range(sizes[client]), client, step, seed=0)
            assert schedule.micro_batches_of(client, step) == len(in_micro_batches(samples, parts))


def test_what_is_under_way_together() -> None:
    assert groups(3, overlaps=False) == [range(1), range(1, 2), range(2, 3)] and groups(3, overlaps=True) == [range(3)]
    alone = [place_in(together, number, 2) for together in groups(2, overlaps=False) for number in together]
    assert [(place.first, place.behind) for place in alone] == [(True, 0), (True, 0)]
    longest = range(4)  # of another client: this one has fewer
    assert [(place_in(longest, number, 3).first, place_in(longest, number, 3).behind) for number in range(3)] == [
        (True, 2),
        (False, 1),
        (False, 0),
    ]
    assert place_in(longest, 0, 3).digest(7) == 7 and place_in(longest, 1, 3).digest(7) is None


def test_parts_make_one_turn_a_client() -> None:
    parts = [Turn(1, 2.0, 10, 4, 1.0, 0.5, 0.1), Turn(0, 1.0, 5, 2), Turn(1, 3.0, 20, 6, 2.0, 1.0, 0.2)]
    first, second = whole_turns(parts)
    assert (first.client, first.loss, first.tokens, first.targets) == (1, 5.0, 30, 10)
    assert [first.seconds, first.computing, first.waited] == pytest.approx([3.0, 1.5, 0.3]) and second == parts[1]


class Board:
    """What all ranks hear."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def world(self, rank: int) -> SimpleNamespace:
        return SimpleNamespace(
            rank=rank,
            layout=Layout(1, 1, 1),
            announce=self.told.__setitem__,
            wait_for=lambda key, ranks, what: self.told[key],
        )


def view(board: Board, rank: int, first: int, **roles: str) -> Overlap:
    config = Config()
    config.train.micro_batches = 4
    config.roles.overlap = roles.get("overlap", "auto")
    course = SimpleNamespace(first=first)
    context: Any = SimpleNamespace(config=config, world=board.world(rank), course=course, log=None)
    return Overlap(context)


@pytest.mark.parametrize("choice", list(Ahead))
def test_all_ranks_take_the_schedule_that_was_fastest(choice: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(overlap_module, "record_event", lambda log, step, kind, text: events.append(text))
    board, first = Board(), 30
    server, client = view(board, 1, first), view(board, 0, first)
    returned = view(board, 0, first + 5)  # a client that came back: its own first step is a later one
    for step in range(first, first + TRIAL):
        tried = server.at(step)
        assert tried is client.at(step) is Ahead((step - first) % 3)
        assert step < first + 5 or returned.at(step) is tried
        warm_up = step < first + WARM_UP  # the other way round, and longer
        server.measure(step, (100.0 if tried is choice else 50.0) if warm_up else (1.0 if tried is choice else 2.0), 10)
    (told,) = events
    assert told.startswith(f"{ {ahead: name for name, ahead in SCHEDULES.items()}[choice] }: a position took")
    for step in range(first + TRIAL, first + TRIAL + 3):
        assert server.at(step) is client.at(step) is returned.at(step) is choice


def test_nothing_is_measured_where_there_is_no_choice() -> None:
    board = Board()
    for name, ahead in SCHEDULES.items():
        assert all(view(board, 1, 0, overlap=name).at(step) is ahead for step in range(3))
    assert not board.told
