"""FedsLLM's plan three ways: against a convex solver, feasible in every constraint, and better than every neighbour."""

from dataclasses import replace
from functools import cache
from typing import Any

import cvxpy
import numpy as np
import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.plan.channel import ChannelConfig, rate
from splitcom_dist.plan.fedsllm import FedsllmConfig, Instance, Plan, delay, draw, solve
from splitcom_dist.plan.fedsllm_baselines import equal_bandwidth, fixed_accuracy, random_bandwidth, unoptimised
from splitcom_dist.plan.fedsllm_limits import within

USERS, INSTANCES = 5, 200


def config_of(seed: int) -> FedsllmConfig:
    """A setting drawn around the field's: power, bands, bits, cycles, frequencies."""
    rng = np.random.default_rng(seed)
    channel = replace(ChannelConfig(), least_distance_m=40.0)  # at the mast the SNR is beyond the convex solver
    return replace(
        FedsllmConfig(users=USERS, channel=channel),
        bandwidth_hz=10 ** rng.uniform(5.5, 7.5),
        federated_bandwidth_hz=10 ** rng.uniform(5.5, 7.5),
        power_dbm=rng.uniform(0, 25),
        client_share=rng.uniform(0.05, 0.95),
        activation_bits=10 ** rng.uniform(3.5, 6),
        adapter_bits=10 ** rng.uniform(3.5, 6),
        iterations_factor=rng.uniform(0.5, 5),
    )


@cache
def solved(seed: int) -> tuple[Instance, Plan]:
    instance = draw(config_of(seed), seed)
    return instance, solve(instance)


@cache
def convex_program() -> tuple[Any, dict[str, Any], Any, Any]:
    """Minimise max_k (I s_k + t_k) - T (1 - eta) / a over everything at once; bands in shares of an equal share."""
    shape = (2, USERS)
    given = {name: cvxpy.Parameter(shape, nonneg=True) for name in ("snr", "rates")}
    given |= {"compute": cvxpy.Parameter(USERS, nonneg=True), "delay": cvxpy.Parameter(nonneg=True)}
    eta, upload, band, late = cvxpy.Variable(), cvxpy.Variable(USERS), cvxpy.Variable(shape), cvxpy.Variable()
    rates = -cvxpy.rel_entr(band, band + given["snr"])
    constraints = [cvxpy.sum(band[server]) <= USERS for server in range(2)]
    constraints += [
        rates[server] >= cvxpy.multiply(given["rates"][server], cvxpy.inv_pos(upload)) for server in range(2)
    ]
    constraints += [-given["compute"] * cvxpy.log(eta) + upload <= late, eta <= 1]
    return cvxpy.Problem(cvxpy.Minimize(late - given["delay"] * (1 - eta)), constraints), given, eta, late


def by_convex_solver(instance: Instance) -> float:
    """T by Dinkelbach's iterations, each a convex program; it knows neither Lambert's W nor equal finishing times."""
    problem, given, eta, late = convex_program()
    share = instance.bandwidth_hz[:, None] / USERS
    unit = delay(instance, 0.2, np.repeat(share, USERS, axis=1)) / instance.rounds_factor  # seconds of a round
    given["snr"].value = instance.snr_hz / share
    given["rates"].value = instance.bits * np.log(2) / share / unit
    given["compute"].value = instance.iterations_factor * instance.iteration_seconds / np.log(2) / unit
    ratio = 1.0
    for _ in range(6):
        given["delay"].value = ratio
        problem.solve(solver="CLARABEL")
        before, ratio = ratio, float(late.value / (1 - eta.value))
        if abs(ratio / before - 1) < 1e-6:
            break
    return ratio * unit * instance.rounds_factor


@pytest.mark.parametrize("start", range(0, INSTANCES, 50))
def test_no_convex_solver_finds_another_delay(start: int) -> None:
    for seed in range(start, start + 50):
        instance, plan = solved(seed)
        assert by_convex_solver(instance) == pytest.approx(plan.delay_seconds, rel=1e-4), seed


def test_every_constraint_holds_and_all_finish_together() -> None:
    for seed in range(INSTANCES):
        instance, plan = solved(seed)
        assert 0 < plan.eta < 1
        assert (plan.bandwidth_hz > 0).all() and (plan.upload_seconds > 0).all()
        assert (plan.bandwidth_hz.sum(axis=1) <= instance.bandwidth_hz * (1 + 1e-9)).all()
        assert np.max(plan.bandwidth_hz.sum(axis=1) / instance.bandwidth_hz) == pytest.approx(1)
        sent = rate(plan.bandwidth_hz, instance.snr_hz) * plan.upload_seconds
        assert sent == pytest.approx(instance.bits, rel=1e-7)
        finish = instance.compute_seconds(plan.eta) + plan.upload_seconds
        assert finish * instance.rounds(plan.eta) == pytest.approx(np.full(USERS, plan.delay_seconds))
        assert delay(instance, plan.eta, plan.bandwidth_hz) == pytest.approx(plan.delay_seconds)


def test_no_feasible_neighbour_is_better() -> None:
    rng = np.random.default_rng(0)
    for seed in range(INSTANCES):
        instance, plan = solved(seed)
        for size in (1e-4, 1e-3, 1e-2, 1e-1, 0.5):
            eta = 1 / (1 + (1 / plan.eta - 1) * np.exp(size * rng.standard_normal()))
            bands = plan.bandwidth_hz * np.exp(size * rng.standard_normal(plan.bandwidth_hz.shape))
            bands *= instance.bandwidth_hz[:, None] / bands.sum(axis=1, keepdims=True)
            for other in (delay(instance, eta, plan.bandwidth_hz), delay(instance, eta, bands)):
                assert other >= plan.delay_seconds * (1 - 1e-9)


def test_baselines_are_never_better_and_are_ordered() -> None:
    for seed in range(50):
        instance, plan = solved(seed)
        best = plan.delay_seconds * (1 - 1e-9)
        for eta in (0.01, 0.1, 0.5, 0.9):
            assert best <= fixed_accuracy(instance, eta).delay_seconds <= unoptimised(instance, eta) * (1 + 1e-9)
            assert best <= equal_bandwidth(instance) <= unoptimised(instance, eta) * (1 + 1e-6)
            assert best <= random_bandwidth(instance, eta, seed)


def test_what_can_only_help_does_help() -> None:
    config = config_of(3)
    base = solve(draw(config, 0)).delay_seconds
    for more in (
        replace(config, bandwidth_hz=2 * config.bandwidth_hz, federated_bandwidth_hz=2 * config.federated_bandwidth_hz),
        replace(config, power_dbm=config.power_dbm + 3),
        replace(config, frequency_hz=2 * config.frequency_hz),
    ):
        assert solve(draw(more, 0)).delay_seconds < base


def test_users_alike_get_equal_shares() -> None:
    channel = replace(FedsllmConfig().channel, square_m=1e-9, shadowing_db=0.0)
    instance = draw(replace(FedsllmConfig(users=4), channel=channel, cycles_low=2e4, cycles_high=2e4), 0)
    assert solve(instance).bandwidth_hz == pytest.approx(np.full((2, 4), 5e6))


def test_a_late_plan_says_which_limit_to_relax_and_by_how_much() -> None:
    config = FedsllmConfig(users=10)
    best = within(config, 0, 1e9).delay_seconds
    with pytest.raises(UserError, match=r"allow .* \(1.25 times the limit\).*bandwidth.*frequency.*power") as told:
        within(config, 0, best / 1.25)
    decibel = float(str(told.value).rsplit("+", 1)[1].split()[0])
    strong = replace(config, power_dbm=config.power_dbm + decibel + 0.1)
    assert within(strong, 0, best / 1.25).delay_seconds <= best / 1.25
    with pytest.raises(UserError):
        within(replace(config, power_dbm=config.power_dbm + decibel - 0.2), 0, best / 1.25)
