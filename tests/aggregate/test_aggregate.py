"""Against the exact mean of the products: who is exact when, and what the nearest of a rank is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from splitcom_dist.aggregate.factors import Factors, joined, padded, split, truncated
from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.aggregate.stack import stack
from splitcom_dist.aggregate.svd import factored, filled, svd
from splitcom_dist.aggregate.zero_pad import kept_alive, zero_pad
from splitcom_dist.config.schema import TrainConfig
from splitcom_dist.training import AdapterOptimizer

IN, OUT = 12, 9
RANKS = st.lists(st.integers(1, 4), min_size=1, max_size=4)
SEEDS = st.integers(0, 1000)


def clients_of(ranks: list[int], seed: int, inside: int = IN, out: int = OUT) -> tuple[list[Factors], list[float]]:
    """Random factors of these ranks in float64, and weights that do not sum to 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = (10 * torch.rand(len(ranks), generator=generator) + 0.1).tolist()
    return [Factors(draw(rank, inside), draw(out, rank)) for rank in ranks], weights


def mean_product(clients: list[Factors], weights: list[float]) -> Tensor:
    total = sum(weights)
    return torch.stack([w / total * c.b @ c.a for c, w in zip(clients, weights, strict=True)]).sum(0)


def error(found: Factors, exact: Tensor) -> float:
    return float((found.product - exact).norm() / exact.norm())


@given(RANKS, SEEDS)
def test_a_stack_is_exact_for_equal_and_for_unequal_ranks(ranks: list[int], seed: int) -> None:
    clients, weights = clients_of(ranks, seed)
    found = stack(clients, weights)
    assert found.rank == sum(ranks)
    assert error(found, mean_product(clients, weights)) < 1e-12


@given(RANKS, SEEDS)
def test_an_svd_of_all_ranks_together_is_exact(ranks: list[int], seed: int) -> None:
    clients, weights = clients_of(ranks, seed)
    found = svd(clients, weights, sum(ranks))
    assert found.rank == min(sum(ranks), OUT)
    assert error(found, mean_product(clients, weights)) < 1e-12


@given(st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_for_equal_ranks_that_share_a_factor_an_svd_of_their_rank_is_exact(rank: int, count: int, seed: int) -> None:
    """As after the first step, where every client's A is still the common one; then the mean of factors is, too."""
    clients, weights = clients_of([rank] * count, seed)
    clients = [Factors(clients[0].a, client.b) for client in clients]
    for found in (svd(clients, weights, rank), zero_pad(clients, weights, rank)):
        assert found.rank == rank
        assert error(found, mean_product(clients, weights)) < 1e-12


@given(RANKS, st.integers(1, 8), SEEDS)
def test_no_matrix_of_the_rank_is_nearer_than_the_svd(ranks: list[int], rank: int, seed: int) -> None:
    """Its first rows too are the nearest of their rank: what a client of that rank is given."""
    clients, weights = clients_of(ranks, seed)
    exact, found = mean_product(clients, weights), svd(clients, weights, rank)
    values = torch.linalg.svdvals(exact)
    for lower in range(1, rank + 1):
        left = values[lower:].norm() / values.norm()
        assert error(truncated(found, lower), exact) == pytest.approx(float(left), abs=1e-12)
        padding = error(truncated(zero_pad(clients, weights, 8), lower), exact)
        assert error(truncated(found, lower), exact) <= padding + 1e-12
    lengths = found.a.norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths)), "a row of A that could not train"


@given(st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_for_equal_ranks_zero_padding_is_plain_averaging_of_the_factors(rank: int, count: int, seed: int) -> None:
    clients, weights = clients_of([rank] * count, seed)
    found, total = zero_pad(clients, weights, rank), sum(weights)
    for kind in ("a", "b"):
        mean = sum(w / total * getattr(c, kind) for c, w in zip(clients, weights, strict=True))
        assert torch.allclose(getattr(found, kind), mean, rtol=1e-12)


@given(RANKS, SEEDS)
def test_padding_and_filling_leave_the_product(ranks: list[int], seed: int) -> None:
    (own, fresh), _ = clients_of([ranks[0], 5], seed)
    for found in (padded(own, 5), filled(own, fresh)):
        assert found.rank == 5 and torch.equal(truncated(found, own.rank).a, own.a)
        assert torch.allclose(found.product, own.product, rtol=1e-12)
    assert filled(own, fresh).a.ne(0).any(1).all(), "a row that could not train"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_padded_neither_trains_nor_drifts(optimizer: str) -> None:
    (own,), _ = clients_of([2], 3)
    wide = padded(own, 5)
    a, b = nn.Parameter(wide.a.clone()), nn.Parameter(wide.b.clone())
    training = AdapterOptimizer([a, b], TrainConfig(optimizer=optimizer, weight_decay=0.1, lr=0.01), total_steps=9)
    for _ in range(5):
        (b @ a @ torch.randn(IN, 3, dtype=torch.float64)).pow(2).sum().backward()
        training.step()
    assert not a[2:].any() and not b[:, 2:].any()
    assert a[:2].ne(own.a).all() and b[:, :2].ne(own.b).all()


def test_a_client_holds_its_rank_of_every_factor_and_sends_no_zeros() -> None:
    """Where a weight has a lower rank than the client, as next to a cut, all of it."""
    (high, low), _ = clients_of([4, 2], 7)
    shapes = [matrix.shape for each in (high, low) for matrix in (each.a, each.b)]
    ranks, whole = Ranks([3, 4], shapes), joined([high, low])
    first, second = split(ranks.share(whole, 0), shapes)
    assert torch.equal(first.a[:3], high.a[:3]) and not first.a[3:].any() and not first.b[:, 3:].any()
    assert torch.equal(second.a, low.a) and torch.equal(ranks.share(whole, 1), whole)
    packed = ranks.packed(whole, 0)
    assert len(packed) == ranks.elements(0) == 5 * (IN + OUT)
    assert torch.equal(ranks.unpacked(packed, 0)[0].product, high.b[:, :3] @ high.a[:3])
    lowest = Ranks([3, 3], shapes).kept(ranks.share(whole, 0), torch.arange(len(whole)).to(whole))
    kept, before = split(lowest, shapes)[0], split(torch.arange(len(whole)).to(whole), shapes)[0]
    assert torch.equal(kept.a[3:], before.a[3:]) and torch.equal(kept.a[:3], high.a[:3]), "row 3 is nobody's"
    everybody = Ranks(None, shapes)
    assert torch.equal(everybody.share(whole, 0), whole) and everybody.elements(0) == len(whole)


def test_rows_that_nobody_held_stay_as_they_were() -> None:
    (low, also_low, before), _ = clients_of([2, 2, 4], 5)
    found = kept_alive(zero_pad([low, also_low], [1.0, 3.0], 4), before)
    assert torch.equal(found.a[2:], before.a[2:]) and torch.equal(found.b[:, 2:], before.b[:, 2:])
    assert torch.allclose(found.a[:2], 0.25 * low.a + 0.75 * also_low.a)
    unused = Factors(torch.ones(2, IN), torch.zeros(OUT, 2))  # a fresh adapter: B is zero, and held all the same
    assert torch.equal(kept_alive(unused, Factors(torch.zeros(2, IN), unused.b)).a, unused.a)


@given(RANKS, SEEDS)
def test_flat_vectors_hold_the_factors(ranks: list[int], seed: int) -> None:
    clients, _ = clients_of(ranks, seed)
    shapes = [matrix.shape for client in clients for matrix in (client.a, client.b)]
    for found, client in zip(split(joined(clients), shapes), clients, strict=True):
        assert torch.equal(found.a, client.a) and torch.equal(found.b, client.b)
    with pytest.raises((ValueError, RuntimeError)):
        split(joined(clients)[:-1], shapes)


def test_without_a_weight_there_is_no_mean() -> None:
    clients, _ = clients_of([2, 3], 0)
    with pytest.raises(ValueError, match="no mean"):
        stack(clients, [0.0, 0.0])


def test_more_ranks_than_the_weight_has_are_no_trouble() -> None:
    clients, weights = clients_of([4, 4, 4], 1, inside=5, out=3)
    assert error(svd(clients, weights, 4), mean_product(clients, weights)) < 1e-12


@given(RANKS, SEEDS)
def test_a_change_has_factors_of_its_own_rank(ranks: list[int], seed: int) -> None:
    clients, weights = clients_of(ranks, seed)
    change = mean_product(clients, weights)
    found = factored(change, precision=1e-9)
    assert found.rank == min(sum(ranks), OUT)
    assert error(found, change) < 1e-12
    values = torch.linalg.svdvals(change)
    assert factored(change, precision=float(values[0]) * 2).rank == 1, "PEFT knows no rank 0"
