"""Each controller, driven by recorded perplexities and bytes, decides what its rule says and tells why."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from splitcom_dist.config.schema import Bounds, CodecConfig, Config, ControlConfig, LinkCodecConfig, ModelConfig
from splitcom_dist.control.bang_bang import BangBang
from splitcom_dist.control.choice import decides_by_rounds, make_controller
from splitcom_dist.control.controller import LinkUse, Observation
from splitcom_dist.control.fixed import Fixed
from splitcom_dist.links import LINKS, U_SHAPE

LOW, HIGH, GRADIENT_LOW, GRADIENT_HIGH = 0.95, 0.99, 0.7, 0.9


def config(name: str = "fixed", links: tuple[str, ...] = ("up_activation",), tail_layers: int = 0) -> Config:
    codecs = {link: LinkCodecConfig(gate="cosine", theta=0.9 if "act" in link else 0.8) for link in links}
    result = Config(ModelConfig(tail_layers=tail_layers), codec=CodecConfig(**codecs))  # type: ignore[arg-type]
    result.control = ControlConfig(name, Bounds(LOW, HIGH), Bounds(GRADIENT_LOW, GRADIENT_HIGH))
    result.control.bang_bang.tolerance, result.control.bang_bang.release = 0.02, 0.005
    return result


def seen(epoch: int, ppl: float) -> Observation:
    return Observation(10 * epoch + 9, epoch, progress=(epoch + 1) / 10, validation_loss=math.log(ppl))


def drive(perplexities: list[float]) -> list[float]:
    controller = BangBang(config())
    decisions = [controller.decide(seen(epoch - 1, ppl)) for epoch, ppl in enumerate(perplexities)]
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


def test_bang_bang_moves_every_link_between_its_own_bounds_and_says_why() -> None:
    controller = BangBang(config(links=LINKS, tail_layers=1))
    low = {decision.link: decision.theta for decision in controller.decide(seen(-1, 10.0))}
    high = {decision.link: decision.theta for decision in controller.decide(seen(0, 1e300))}
    assert tuple(low) == U_SHAPE, "one threshold a link, in the order of a step"
    assert low == {link: LOW if link.endswith("activation") else GRADIENT_LOW for link in LINKS}
    assert high == {link: HIGH if link.endswith("activation") else GRADIENT_HIGH for link in LINKS}
    decision = controller.decide(seen(1, 10.5))[0]
    assert decision.reason == "perplexity 10.5 is 5.00 % above the best"
    assert decision.state == {"ppl": pytest.approx(10.5), "best": pytest.approx(10.0), "high": 1.0}


def test_fixed_keeps_its_thresholds_whatever_happens() -> None:
    controller = Fixed(config(links=("up_activation", "down_gradient")))
    for observation in (seen(-1, 3.0), seen(0, 900.0)):
        assert [decision.theta for decision in controller.decide(observation)] == [0.9, 0.8]


@pytest.mark.parametrize("name", ["fixed", "bang_bang", "byte_budget"])
def test_links_without_a_threshold_get_no_decision(name: str) -> None:
    ungated = config(name)
    ungated.codec = CodecConfig()
    assert make_controller(ungated).decide(seen(0, 5.0)) == []
    tail_only = config(name, links=("up_activation", "up_gradient"))  # up_gradient is no link of the standard shape
    assert [decision.link for decision in make_controller(tail_only).decide(seen(0, 5.0))] == ["up_activation"]


def test_only_controllers_that_learn_from_rounds_decide_after_them() -> None:
    assert [decides_by_rounds(config(name)) for name in ("fixed", "bang_bang", "byte_budget", "ddpg")] == [
        False,
        False,
        True,
        True,
    ]
    by_epochs = config("ddpg")
    by_epochs.control.ddpg.every = "epoch"
    assert not decides_by_rounds(by_epochs)


# --- byte budget -----------------------------------------------------------------------------------------------------

EPOCHS, SAMPLES, RAW, OTHERS = 50, 64, 25_000, 400_000  # bytes of a sample sent whole, of all else in an epoch


def spend(
    sends: float, links: tuple[str, ...] = ("up_activation",), unlike: float = 0.2
) -> tuple[float, list[float], list[float]]:
    """A run whose samples drift from their references, fast at first and slower as the learning rate falls.

    `sends` is how often the budget lets a sample cross on a link; `unlike` how much samples differ in their drift.
    Returns all bytes over the budget, the first link's threshold after every epoch, and its share of samples sent.
    """
    settings = config("byte_budget", links)
    settings.control.activation, settings.control.gradient = Bounds(-0.9, 1.0), Bounds(-0.9, 1.0)
    budget = sends * len(links) * SAMPLES * RAW + EPOCHS * OTHERS
    settings.control.byte_budget.megabytes = budget / 1e6
    controller = make_controller(settings)
    theta = {decision.link: decision.theta for decision in controller.decide(Observation(-1, -1, 0.0, 3.0))}
    generator = np.random.default_rng(0)
    pace = {link: np.exp(generator.normal(0, unlike, SAMPLES)) * 3.0**index for index, link in enumerate(links)}
    error = {link: np.full(SAMPLES, np.inf) for link in links}
    age = {link: np.zeros(SAMPLES) for link in links}
    total, thetas, shares = 0.0, [], []
    for epoch in range(EPOCHS):
        lr = 1e-3 * (1 - epoch / EPOCHS)
        step, use = 60 * lr * (2 if epoch < 10 else 1), {}
        for link in links:
            error[link] += step * pace[link]
            age[link] += 1
            known = np.minimum(error[link], 1.9)
            sent = ~(1 - known**2 / 2 > theta[link])
            drift = float((known / age[link]).mean()) if epoch else 0.0
            use[link] = LinkUse(2 * SAMPLES * RAW, int(sent.sum()) * RAW, int(sent.sum()), int((~sent).sum()), drift)
            error[link][sent], age[link][sent] = 0, 0
        total += sum(each.wire_bytes for each in use.values()) + OTHERS
        shares.append(use[links[0]].sent / SAMPLES)
        decisions = controller.decide(
            Observation(epoch, epoch, (epoch + 1) / EPOCHS, None, 2.0, use, OTHERS, lr, movement=step * lr)
        )
        theta = {decision.link: decision.theta for decision in decisions}
        thetas.append(theta[links[0]])
    return total / budget, thetas, shares


@pytest.mark.parametrize("links", [("up_activation",), ("up_activation", "down_gradient")])
@pytest.mark.parametrize("unlike", [0.1, 0.4])  # nearly all samples come to a threshold in the same epoch, or few do
@pytest.mark.parametrize("sends", [4, 6, 12, 30])
def test_byte_budget_ends_at_the_budget_and_spends_it_evenly(
    sends: float, unlike: float, links: tuple[str, ...]
) -> None:
    total, thetas, shares = spend(sends, links, unlike)
    gated = sends * len(links) * SAMPLES * RAW
    assert abs(total - 1) * (gated + EPOCHS * OTHERS) < 0.06 * gated, "within 6 % of what gates can spend"
    if links == ("up_activation",):
        halves = sum(shares[1:26]), sum(shares[26:])
        assert min(halves) > 0.3 * sum(halves), "neither half of the run starves"
        assert thetas[40] > thetas[15], "as the adapter settles, less error is allowed"


def test_a_budget_that_cannot_be_reached_is_overrun_by_nothing_avoidable() -> None:
    total, thetas, shares = spend(0.5)
    assert shares == [1.0] + [0.0] * (EPOCHS - 1) and set(thetas[1:]) == {-1.0}, "first visits only"
    assert total == pytest.approx((SAMPLES * RAW + EPOCHS * OTHERS) / (0.5 * SAMPLES * RAW + EPOCHS * OTHERS))


def test_byte_budget_keeps_its_links_bounds_while_the_budget_lasts() -> None:
    for megabytes, expected in ((1e-6, -1.0), (1.0, LOW), (1e6, HIGH)):
        settings = config("byte_budget")
        settings.control.byte_budget.megabytes = megabytes
        controller = make_controller(settings)
        use = {"up_activation": LinkUse(40_000, 20_000, 1, 9, drift=0.1)}  # a tenth is sent, 1 MB over the run
        for index in range(40):
            (decision,) = controller.decide(Observation(index, 1, 0.02 * (index + 1), 2.0, 2.0, use, 0, 1e-3, 1e-3))
        assert decision.theta == expected


def test_byte_budget_allows_more_error_where_parameters_move_more() -> None:
    """LAQ's rule: the same budget, spending and drift, once with a fast and once with a settled adapter."""
    errors = []
    for movement in (2e-3, 1e-3):
        settings = config("byte_budget")
        settings.control.activation.low = 0.5
        controller = make_controller(settings)
        use = {"up_activation": LinkUse(RAW, 0)}
        for index, moved in enumerate((1e-3, movement)):
            (decision,) = controller.decide(Observation(index, 0, 0.1 * (index + 1), 2.0, 2.0, use, 0, 1e-3, moved))
        errors.append(math.sqrt(2 - 2 * decision.theta))
        assert "of the budget left" in decision.reason and decision.state["movement"] > 0
    fast, settled = errors
    assert settled == pytest.approx(math.sqrt(0.2)), "movement as at first, nothing drifted: the configured threshold"
    assert fast == pytest.approx(1.5 * settled), "mean movement over the learning rate: (1 + 2) / 2 of the first"


# --- DDPG ------------------------------------------------------------------------------------------------------------


def walk(controller_config: Config, rounds: int = 40) -> list[float]:
    controller = make_controller(controller_config)
    thetas = []
    for index in range(rounds):
        use = {"up_activation": LinkUse(RAW, RAW // 2)}
        (decision,) = controller.decide(
            Observation(index, 1, (index + 1) / rounds, None, 3.0 - 0.01 * index, use, OTHERS, 1e-3, 1e-3)
        )
        thetas.append(decision.theta)
    return thetas


def test_ddpg_stays_within_its_bounds_explores_and_is_reproducible() -> None:
    first = walk(config("ddpg"))
    assert all(LOW - 1e-9 <= theta <= HIGH + 1e-9 for theta in first) and len(set(first)) > 20
    assert walk(config("ddpg")) == first
    other = config("ddpg")
    other.train.seed = 1
    assert walk(other) != first


def test_ddpg_is_rewarded_for_loss_and_bytes_after_the_first_epoch() -> None:
    settings = config("ddpg")
    settings.control.ddpg.quality_weight = 4.0
    controller = make_controller(settings)
    use = {"up_activation": LinkUse(1000, 250)}
    rows = [(0, 3.0), (1, 2.5), (1, 2.6)]
    decisions = [
        controller.decide(Observation(index, epoch, 0.1 * index, None, loss, use))[0]
        for index, (epoch, loss) in enumerate(rows)
    ]
    assert [decision.state["reward"] for decision in decisions] == pytest.approx([-0.25, 4 * 0.5 - 0.25, -0.4 - 0.25])
    assert decisions[-1].reason.endswith("after 2 transitions"), "the first epoch sends everything: nothing to learn"


def test_ddpg_goes_on_from_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    from splitcom_dist.control.ddpg import Ddpg
    from splitcom_dist.run_directory import save_tensors

    controller = make_controller(config("ddpg"))
    for index in range(40):
        controller.decide(Observation(index, 1, index / 40, None, 3.0 - 0.01 * index))
    save_tensors(tmp_path / "ddpg.safetensors", controller.checkpoint())
    settings = config("ddpg")
    settings.control.ddpg.load = str(tmp_path / "ddpg.safetensors")
    loaded = make_controller(settings)
    assert isinstance(loaded, Ddpg) and isinstance(controller, Ddpg)
    state = torch.rand(5)
    for _ in range(3):  # networks, optimizers, replay, noise and generator all go on alike
        assert torch.equal(loaded.agent.act(state), controller.agent.act(state))
        for agent in (loaded.agent, controller.agent):
            agent.learn(state, torch.zeros(1), 0.5, state)


@pytest.mark.parametrize("links", [("up_activation", "down_gradient"), ("up_activation",)])
def test_ddpg_refuses_what_is_no_checkpoint_of_its_own(links: tuple[str, ...], tmp_path: Path) -> None:
    from splitcom_dist.errors import UserError
    from splitcom_dist.run_directory import save_tensors

    settings = config("ddpg", links)
    settings.control.ddpg.load = str(tmp_path / "ddpg.safetensors")
    with pytest.raises(UserError, match="no such file"):
        make_controller(settings)
    other = ("up_activation",) if len(links) == 2 else ("up_activation", "down_gradient")
    save_tensors(tmp_path / "ddpg.safetensors", make_controller(config("ddpg", other)).checkpoint())
    with pytest.raises(UserError, match="not an agent for"):
        make_controller(settings)
