"""Power and owners of subchannels against a convex solver and against every assignment there is."""

from itertools import product

import cvxpy
import numpy as np
import pytest

from splitcom_dist.plan.owners import allocate, greedy
from splitcom_dist.plan.subchannels import Allocation, Band, best_power, even_power

BITS = 2e6


def band_of(seed: int, clients: int, subchannels: int) -> tuple[Band, np.ndarray]:
    rng = np.random.default_rng(seed)
    snr = 10 ** rng.uniform(0, 3, (clients, 1)) * rng.exponential(size=(clients, subchannels))
    caps = rng.uniform(0.3, 2), rng.uniform(1, 4)
    return Band(snr, 5e5, *caps), rng.uniform(0, 0.5, clients)


def random_owners(rng: np.random.Generator, clients: int, subchannels: int) -> np.ndarray:
    return rng.permutation(np.concatenate([np.arange(clients), rng.integers(clients, size=subchannels - clients)]))


def check(band: Band, found: Allocation) -> None:
    assert (found.power_w >= 0).all()
    of_clients = np.bincount(found.owners, weights=found.power_w, minlength=band.clients)
    assert (of_clients <= band.client_power_w * (1 + 1e-9)).all()
    assert of_clients.sum() <= band.total_power_w * (1 + 1e-9)
    assert found.rates == pytest.approx(band.rates(found.owners, found.power_w))


@pytest.mark.parametrize("seed", range(30))
def test_no_convex_solver_finds_better_power(seed: int) -> None:
    band, offsets = band_of(seed, 4, 10)
    owners = random_owners(np.random.default_rng(seed), 4, 10)
    found = best_power(band, owners, offsets, BITS)
    check(band, found)
    power = cvxpy.Variable(10, nonneg=True)
    own = band.snr_per_w[owners, np.arange(10)]
    caps = [cvxpy.sum(power) <= band.total_power_w]
    caps += [cvxpy.sum(power[owners == client]) <= band.client_power_w for client in range(4)]
    rates = [cvxpy.sum(cvxpy.log1p(cvxpy.multiply(own, power))[owners == client]) for client in range(4)]
    times = [
        offset + BITS * np.log(2) / band.width_hz * cvxpy.inv_pos(rate)
        for offset, rate in zip(offsets, rates, strict=True)
    ]
    best = cvxpy.Problem(cvxpy.Minimize(cvxpy.maximum(*times)), caps).solve(solver="CLARABEL")
    assert found.finish(offsets, BITS) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_with_moves_and_swaps_is_near_the_best_of_all_assignments(seed: int) -> None:
    band, offsets = band_of(seed, 3, 6)
    found = allocate(band, offsets, BITS)
    check(band, found)
    every = (np.array(owners) for owners in product(range(3), repeat=6) if len(set(owners)) == 3)
    best = min(best_power(band, owners, offsets, BITS).finish(offsets, BITS) for owners in every)
    assert best * (1 - 1e-9) <= found.finish(offsets, BITS) <= 1.05 * best


@pytest.mark.parametrize("seed", range(6))
def test_power_and_moves_only_help(seed: int) -> None:
    band, offsets = band_of(seed, 5, 20)
    owners = greedy(band, offsets, BITS)
    assert set(owners) == set(range(5))
    power = even_power(band, owners)
    even = Allocation(owners, power, band.rates(owners, power))
    check(band, even)
    best = best_power(band, owners, offsets, BITS)
    assert best.finish(offsets, BITS) <= even.finish(offsets, BITS) * (1 + 1e-9)
    assert allocate(band, offsets, BITS).finish(offsets, BITS) <= best.finish(offsets, BITS) * (1 + 1e-9)
