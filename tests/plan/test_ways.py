"""Bandwidth and latency from packets of known ways; what packets cannot tell is said, not made up."""

import numpy as np
import pytest

from splitcom_dist.plan.ways import fit_way

UP, DOWN, LATENCY = 1e6, 4e6, 0.02
ALL = np.ones(60, bool)
DRAW = np.random.default_rng(0)
SIZES = [DRAW.integers(50_000, 500_000, 60).astype(float) for _ in range(2)]


def seconds(up: np.ndarray, down: np.ndarray, noise: float = 0.002) -> np.ndarray:
    late = np.where(np.arange(len(up)) % 7 == 0, 1.5, 0.0)  # some are held up
    return up / UP + down / DOWN + 2 * LATENCY + noise * np.random.default_rng(1).standard_normal(len(up)) + late


def test_packets_of_many_sizes_tell_all_three_in_spite_of_some_that_were_held_up() -> None:
    up, down = SIZES
    way = fit_way(up, down, seconds(up, down), ALL)
    assert way.up == pytest.approx(UP, rel=0.05)
    assert way.down == pytest.approx(DOWN, rel=0.15)
    assert way.latency == pytest.approx(LATENCY, abs=0.008)
    assert not way.untold


def test_where_both_grow_together_they_are_as_fast_as_they_are_together() -> None:
    up = SIZES[0]
    way = fit_way(up, up, seconds(up, up), ALL)
    assert way.up == way.down == pytest.approx(2 / (1 / UP + 1 / DOWN), rel=0.05)
    assert [each.partition(":")[0] for each in way.untold] == ["up from down"]


def test_packets_of_one_size_tell_nothing_but_how_long_such_take() -> None:
    up = np.full(60, 250_000.0)
    way = fit_way(up, up, seconds(up, up), ALL)
    assert [each.partition(":")[0] for each in way.untold] == ["up from down", "latency from bandwidth"]
    assert 250_000 / way.up + 250_000 / way.down + 2 * way.latency == pytest.approx(0.25 + 0.0625 + 0.04, rel=0.02)


def test_packets_too_fast_to_time_give_the_least_that_the_bandwidth_can_be() -> None:
    up, down = SIZES
    way = fit_way(up, down, np.abs(0.001 * np.random.default_rng(2).standard_normal(60)) + down / DOWN, ALL)
    assert way.up > 20 * DOWN and np.isfinite(way.up)
    assert any(each.startswith("up from no time at all") for each in way.untold)
    assert way.down == pytest.approx(DOWN, rel=0.05)


def test_packets_that_queued_do_not_count_where_enough_did_not() -> None:
    up, down = SIZES
    unqueued = np.arange(60) % 3 == 0
    way = fit_way(up, down, seconds(up, down) + np.where(unqueued, 0, 0.7), unqueued)
    assert way.up == pytest.approx(UP, rel=0.05)


@pytest.mark.parametrize(("count", "untold"), [(5, "up from down and latency"), (2, "more than the least speed")])
def test_of_a_few_that_did_not_queue_the_whole_is_taken_and_of_none_the_quickest(count: int, untold: str) -> None:
    up = np.full(60, 250_000.0)
    unqueued = np.arange(60) < count
    way = fit_way(up, up, 0.5 + np.where(unqueued, 0.0, np.linspace(0, 2, 60)), unqueued)
    assert way.up == way.down and way.latency == 0
    assert 500_000 / way.up == pytest.approx(0.5 if count == 5 else 0.7, abs=0.02)
    assert way.untold[0].startswith(untold)


def test_two_packets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 packets, 3 at least"):
        fit_way(np.ones(2), np.ones(2), np.ones(2), np.ones(2, bool))
