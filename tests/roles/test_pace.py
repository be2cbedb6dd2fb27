"""Slow devices are as slow as they were told to be, and a deadline is for what a client itself computes."""

import time

import pytest

from splitcom_dist.config import FedConfig, SpeedConfig
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


def compute(own: Pace, client: int, seconds: float) -> float:
    started = time.perf_counter()
    with own.computing(client):
        time.sleep(seconds)
    return time.perf_counter() - started


def test_computing_lasts_as_long_as_the_speed_says() -> None:
    own = pace(1, 0.25)
    assert compute(own, 0, 0.02) == pytest.approx(0.02, abs=0.015)
    assert compute(own, 1, 0.02) == pytest.approx(0.08, abs=0.03) and compute(own, 1, 0.02) >= 0.08


def test_a_deadline_is_for_what_a_client_computes_in_a_round() -> None:
    own = pace(1, 0.25, deadline=0.06)
    assert not own.is_late(1), "everybody has a first turn"
    for client in (0, 1):
        compute(own, client, 0.02)
    time.sleep(0.06)  # waiting
    assert not own.is_late(0) and own.is_late(1)
    own.leave_out(1)
    own.leave_out(1)
    other = pace(1, 0.25, deadline=0.06)
    other.load(own.state())
    (line,) = other.end_round()
    assert line.startswith("client 1 left out 2 turns of the round, after computing for 0.0")
    assert not other.is_late(1) and other.end_round() == []


def test_without_a_deadline_nobody_is_late() -> None:
    own = pace(0.5)
    compute(own, 0, 0.01)
    assert not own.is_late(0) and not own.has_deadline
