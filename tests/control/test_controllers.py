"""Each controller, driven by recorded perplexities, decides what its rule says and tells why."""

import pytest

from splitcom_dist.config import BangBangConfig, CodecConfig, LinkCodecConfig
from splitcom_dist.control.bang_bang import BangBang
from splitcom_dist.control.controller import Observation
from splitcom_dist.control.fixed import Fixed

GATED = CodecConfig(up_activation=LinkCodecConfig(gate="cosine", theta=0.9))
SETTINGS = BangBangConfig(theta_low=0.95, theta_high=0.99, tolerance=0.02, release=0.005)
LOW, HIGH = SETTINGS.theta_low, SETTINGS.theta_high


def drive(perplexities: list[float], settings: BangBangConfig = SETTINGS) -> list[float]:
    controller = BangBang(GATED, settings)
    decisions = [controller.decide(Observation(epoch - 1, ppl)) for epoch, ppl in enumerate(perplexities)]
    assert all(len(each) == 1 and each[0].link == "up_activation" for each in decisions)
    return [each[0].theta for each in decisions]


@pytest.mark.parametrize(
    ("perplexities", "thetas"),
    [
        ([30, 10, 8, 7], [LOW] * 4),  # falling: never a reason to upload more
        ([30, 10, 10.3, 9.9], [LOW, LOW, HIGH, LOW]),  # 3 % above the best, then a new best
        ([10, 10.15, 10.15], [LOW, LOW, LOW]),  # 1.5 %: inside the dead band from below
        ([10, 10.3, 10.15, 10.04], [LOW, HIGH, HIGH, LOW]),  # the same 1.5 % from above: still high; 0.4 % releases
        ([10, 12, 12, 12], [LOW, HIGH, HIGH, HIGH]),
        ([10, 10.199, 10.201], [LOW, LOW, HIGH]),  # just within the tolerance, and just beyond
    ],
)
def test_bang_bang_switches_with_hysteresis(perplexities: list[float], thetas: list[float]) -> None:
    assert drive(perplexities) == thetas


def test_bang_bang_never_leaves_its_bounds_and_says_why() -> None:
    controller = BangBang(GATED, SETTINGS)
    controller.decide(Observation(-1, 10.0))
    (decision,) = controller.decide(Observation(0, 1e300))
    assert decision.theta == HIGH
    (decision,) = controller.decide(Observation(1, 10.5))
    assert decision.reason == "perplexity 10.5 is 5.00 % above the best"


def test_fixed_keeps_its_threshold_whatever_happens() -> None:
    controller = Fixed(GATED)
    assert [controller.decide(Observation(epoch, ppl))[0].theta for epoch, ppl in ((-1, 3.0), (0, 900.0))] == [0.9, 0.9]


@pytest.mark.parametrize("make", [Fixed, lambda codec: BangBang(codec, SETTINGS)])
def test_links_without_a_threshold_get_no_decision(make) -> None:  # type: ignore[no-untyped-def]
    assert make(CodecConfig()).decide(Observation(0, 5.0)) == []
