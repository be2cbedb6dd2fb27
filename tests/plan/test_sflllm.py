"""SflLLM's plan against brute force over everything, monotone, within its limits, and better than its baselines."""

from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import transformers

from splitcom_dist.errors import UserError
from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.rounds import RoundCurve, fit, load
from splitcom_dist.plan.sflllm import Choice, Instance, SflllmConfig, costs_of, delay, draw, forward_seconds
from splitcom_dist.plan.sflllm_descent import BASELINES, Plan, feasible, solve
from splitcom_dist.plan.sflllm_limits import RELAXED, within
from splitcom_dist.plan.subchannels import Band, best_power
from splitcom_dist.plan.workload import Batch

SMALL = replace(
    SflllmConfig(),
    clients=3,
    main_subchannels=5,
    federated_subchannels=5,
    ranks=(1, 4, 16),
    batch=Batch(samples=4, length=64),
)


@cache
def small(seed: int) -> Instance:
    """Settings in which now the clients, now the server, now the link is slow."""
    rng = np.random.default_rng(seed)
    shape = model_shape(transformers.GPT2Config(n_layer=5, n_embd=192, n_head=4, vocab_size=4096))
    flops = 10 ** rng.uniform(10, 13)
    config = replace(
        SMALL,
        client_flops_low=flops / 3,
        client_flops_high=flops,
        server_flops=10 ** rng.uniform(10, 12.5),
        local_steps=int(rng.integers(1, 12)),
        adapter_itemsize=int(rng.choice([4, 400])),
    )
    rounds = RoundCurve(rng.uniform(1, 10), rng.uniform(1, 20), rng.uniform(0.3, 2))
    return draw(config, costs_of(shape, config), seed, rounds)


@cache
def solved(seed: int) -> Plan:
    return solve(small(seed))


def all_assignments(band: Band) -> list[np.ndarray]:
    every = product(range(band.clients), repeat=band.subchannels)
    return [np.array(owners) for owners in every if len(set(owners)) == band.clients]


def brute_force(instance: Instance) -> float:
    """The best of all assignments with their best power, splits and ranks; the bands do not depend on each other."""
    still = np.zeros(len(instance.client_flops))
    federated = min(
        (best_power(instance.federated, owners, still, 1e6) for owners in all_assignments(instance.federated)),
        key=lambda found: found.finish(still, 1e6),
    )
    best = np.inf
    for choice in feasible(instance):
        offsets, bits = forward_seconds(instance, choice), choice.of(instance.costs.activation_bits)
        main = min(
            (best_power(instance.main, owners, offsets, bits) for owners in all_assignments(instance.main)),
            key=lambda found: found.finish(offsets, bits),
        )
        best = min(best, delay(instance, choice, main, federated))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_plan_is_within_five_per_cent_of_brute_force(seed: int) -> None:
    plan = solved(seed)
    best = brute_force(small(seed))
    assert best * (1 - 1e-9) <= plan.delay_seconds <= 1.05 * best


def test_the_settings_are_not_all_alike() -> None:
    assert len({(solved(seed).choice) for seed in range(8)}) >= 3


@pytest.mark.parametrize("seed", range(8))
def test_no_block_makes_the_delay_longer_and_the_plan_is_what_it_says(seed: int) -> None:
    instance = small(seed)
    plan = solved(seed)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(plan.course))
    assert plan.delay_seconds == pytest.approx(delay(instance, plan.choice, plan.main, plan.federated))
    assert plan.rank == instance.costs.ranks[plan.choice.rank]
    for band, found in ((instance.main, plan.main), (instance.federated, plan.federated)):
        assert set(found.owners) == set(range(3))
        assert found.power_w.sum() <= band.total_power_w * (1 + 1e-9)


@pytest.mark.parametrize("chance", BASELINES.values())
def test_chance_is_no_better_and_on_average_worse(chance: str) -> None:
    ratios = []
    for seed in range(8):
        ratios.append(solve(small(seed), chance, seed).delay_seconds / solved(seed).delay_seconds)
    assert min(ratios) > 0.97, "greedy owners are not the best there are, but near"
    assert np.mean(ratios) > 1.02


def test_memory_narrows_the_splits_and_its_lack_is_told_with_the_mend() -> None:
    instance = small(0)
    table = instance.costs.client_memory
    narrow = replace(instance, most_memory=float(table[1, 0]))
    assert {choice.split for choice in feasible(narrow)} <= {1, 2}
    plan = solve(narrow)
    assert plan.choice.of(table) <= narrow.most_memory
    assert plan.delay_seconds >= solve(instance).delay_seconds * (1 - 1e-6)
    least = float(table.min())
    with pytest.raises(UserError, match=rf"needs {least / 1e6:,.1f} MB: allow 1.0 MB more"):
        solve(replace(instance, most_memory=least - 1e6))


def test_a_late_plan_says_which_limit_to_relax_and_by_how_much() -> None:
    instance, best = small(1), solved(1).delay_seconds
    assert within(instance, best * 1.01).delay_seconds == best
    with pytest.raises(
        UserError, match=r"allow .* \(1\.20 times the limit\); or .*client speed .*subchannels .*power"
    ) as told:
        within(instance, best / 1.2)
    mends = dict(found.rsplit(" x ", 1) for found in str(told.value).split("; or ") if " x " in found)
    assert mends, "something suffices alone"
    for name, factor in mends.items():
        relaxed = RELAXED[name](instance, float(factor) * 1.01)
        assert solve(relaxed).delay_seconds <= best / 1.2 * 1.001
        tight = RELAXED[name](instance, 1 + (float(factor) - 1) * 0.7)
        assert solve(tight).delay_seconds > best / 1.2


def test_the_delay_is_the_formula() -> None:
    instance = small(1)
    plan = solve(instance)
    costs, choice = instance.costs, Choice(2, 1)
    by_hand = max(
        costs.client_forward[1, 1] / flops + costs.activation_bits[1, 1] / rate
        for flops, rate in zip(instance.client_flops, plan.main.rates, strict=True)
    )
    by_hand += 3 * costs.server[1, 1] / instance.server_flops
    by_hand += max(costs.client_backward[1, 1] / flops for flops in instance.client_flops)
    by_hand = instance.local_steps * by_hand + max(costs.adapter_bits[1, 1] / rate for rate in plan.federated.rates)
    assert delay(instance, choice, plan.main, plan.federated) == pytest.approx(instance.rounds(4) * by_hand)


def test_the_fitted_rounds_fall_with_the_rank_and_pass_by_the_runs() -> None:
    points = load()
    curve = fit(points)
    ranks = sorted({rank for rank, _ in points})
    assert len(ranks) >= 3
    for rank in ranks:
        measured = np.mean([rounds for own, rounds in points if own == rank])
        assert curve(rank) == pytest.approx(measured, rel=0.15)
    assert all(curve(high) < curve(low) for low, high in pairwise(ranks))
    exact = RoundCurve(4.0, 9.0, 0.75)
    again = fit([(rank, exact(rank)) for rank in (1, 2, 4, 8, 16)])
    assert (again.floor, again.scale, again.power) == pytest.approx((4.0, 9.0, 0.75), rel=0.02)
    with pytest.raises(ValueError, match="three ranks"):
        fit([(1, 3.0), (2, 2.0)])
