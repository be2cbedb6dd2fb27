"""Slow devices are as slow as they were told to be, and a deadline is for what a client itself computes."""

import pytest
from conftest import Clock

from splitcom_dist.config.schema import FedConfig, SpeedConfig
from splitcom_dist.roles import pace as pace_module
from splitcom_dist.roles.pace import Pace, speeds_of


def test_speeds_are_drawn_by_the_seed_alone() -> None:
    uniform = SpeedConfig("uniform", low=0.25, high=0.75)
    speeds = speeds_of(uniform, 1000, seed=3)
    assert all(0.25 <= speed <= 0.75 for speed in speeds)
    assert 0.48 < sum(speeds) / 1000 < 0.52 and min(speeds) < 0.27 and max(speeds) > 0.73
    assert speeds == speeds_of(uniform, 1000, seed=3)
    assert speeds[:10] == speeds_of(uniform, 10, seed=3), "more clients make none of them another"
    assert speeds[:10] != speeds_of(uniform, 10, seed=4)
    assert speeds_of(SpeedConfig("list", values=[1, 0.5]), 2, seed=3) == [1, 0.5]
    assert speeds_of(SpeedConfig(), 2, seed=3) == [1, 1]


def pace(*speeds: float, deadline: float | None = None) -> Pace:
    fed = FedConfig(clients=len(speeds), speed=SpeedConfig("list", values=list(speeds)))
    if deadline is not None:
        fed.straggler, fed.deadline_seconds = "deadline", deadline
    return Pace(fed, seed=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", clock)
    return clock


def compute(own: Pace, client: int, seconds: float, clock: Clock) -> float:
    started = clock.perf_counter()
    with own.computing(client):
        clock.sleep(seconds)
    return clock.perf_counter() - started


def test_computing_lasts_as_long_as_the_speed_says(clock: Clock) -> None:
    own = pace(1, 0.25)
    assert compute(own, 0, 0.02, clock) == pytest.approx(0.02)
    assert compute(own, 1, 0.02, clock) == pytest.approx(0.08)


@pytest.mark.parametrize(("waits", "lasts"), [(0.03, 0.08), (0.06, 0.08), (0.2, 0.22)])
def test_what_waits_for_a_core_is_not_stretched(waits: float, lasts: float, clock: Clock) -> None:
    own, started = pace(0.25), clock.perf_counter()
    with own.computing(0):
        clock.sleep(0.02)
        clock.wait_for_a_core(waits)
    assert clock.perf_counter() - started == pytest.approx(lasts)


def test_on_a_device_no_clock_of_a_thread_tells(clock: Clock) -> None:
    fed = FedConfig(clients=1, speed=SpeedConfig("list", values=[0.25]))
    own, started = Pace(fed, seed=0, on_host=False), clock.perf_counter()
    with own.computing(0):
        clock.wait_for_a_core(0.02)
    assert clock.perf_counter() - started == pytest.approx(0.08)


def test_a_deadline_is_for_what_a_client_computes_in_a_round(clock: Clock) -> None:
    own = pace(1, 0.25, deadline=0.06)
    assert not own.is_late(1), "everybody has a first turn"
    for client in (0, 1):
        compute(own, client, 0.02, clock)
    clock.sleep(0.06)  # waiting
    assert not own.is_late(0) and own.is_late(1)
    own.leave_out(1)
    own.leave_out(1)
    other = pace(1, 0.25, deadline=0.06)
    other.load(own.state())
    assert other.end_round() == ["client 1 left out 2 turns of the round, after computing for 0.08 s"]
    assert not other.is_late(1) and other.end_round() == []


def test_without_a_deadline_nobody_is_late(clock: Clock) -> None:
    own = pace(0.5)
    compute(own, 0, 0.01, clock)
    assert not own.is_late(0) and not own.has_deadline
