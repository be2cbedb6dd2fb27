"""Limits narrow the choice; where they leave none, the message says which to relax, and by how much."""

import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.planning.estimate import Estimate
from splitcom_dist.planning.limits import parse, within
from splitcom_dist.planning.setting import Choice


def made(cut: int, seconds: float, megabytes: float, memory: float) -> Estimate:
    return Estimate(
        Choice(cut, 8, "none"), 1.0, seconds, {"up_activation": int(megabytes * 1e6)}, 0, int(memory * 1e6), 1
    )


FOUND = [made(1, 100, 30, 200), made(2, 80, 40, 300), made(3, 60, 50, 400)]


def test_the_soonest_that_keeps_every_limit_comes_first() -> None:
    assert [each.choice.cut_layer for each in within(FOUND, [])] == [3, 2, 1]
    assert within(FOUND, parse(["client_memory_mb=350"]))[0].choice.cut_layer == 2
    assert within(FOUND, parse(["client_memory_mb=350", "megabytes=35"]))[0].choice.cut_layer == 1


def test_without_a_plan_each_limit_that_suffices_alone_is_named_with_its_amount() -> None:
    with pytest.raises(UserError) as told:
        within(FOUND, parse(["seconds=70", "client_memory_mb=350"]))
    assert "allow seconds=80 (10 more); or allow client_memory_mb=400 (50 more)" in str(told.value)
    relaxed = within(FOUND, parse(["seconds=80", "client_memory_mb=350"]))
    assert relaxed[0].choice.cut_layer == 2


def test_where_no_limit_suffices_alone_those_of_the_nearest_plan_are_named_together() -> None:
    with pytest.raises(UserError, match=r"allow .*seconds=.* and .*client_memory_mb="):
        within(FOUND, parse(["seconds=50", "client_memory_mb=190"]))


@pytest.mark.parametrize(
    ("text", "reason"), [("hours=3", "known are seconds"), ("seconds=x", "not a number"), ("seconds=0", "above 0")]
)
def test_bad_limits_are_told(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse([text])
