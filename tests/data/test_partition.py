"""Every training sample belongs to exactly one client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.data.classes import Classes, skew
from splitcom_dist.data.partition import dirichlet, iid, whole_groups
from splitcom_dist.errors import UserError


@given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 2**40))
def test_every_index_is_in_exactly_one_shard_of_even_size(clients: int, extra: int, seed: int) -> None:
    count = clients + extra
    shards = iid(count, clients, seed)
    assert len(shards) == clients
    assert sorted(np.concatenate(shards).tolist()) == list(range(count))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(shard.dtype == np.int64 and (np.diff(shard) > 0).all() for shard in shards)


def test_the_seed_alone_decides_who_gets_what() -> None:
    def shards(seed: int) -> list[list[int]]:
        return [shard.tolist() for shard in iid(100, 4, seed)]

    assert shards(7) == shards(7)
    assert shards(7) != shards(8)
    # Corpora are sorted by source: a client must not get one stretch of the file.
    assert max(shards(7)[0]) - min(shards(7)[0]) > 50


def test_a_client_without_samples_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"^fed.clients=8 but data has 5 training samples: [^\n]*$"):
        iid(5, 8, 0)


@st.composite
def divided(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Classes of samples, not all of them in use, and so many clients with so many samples at least."""
    classes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=120))
    clients = draw(st.integers(1, min(10, len(classes))))
    return np.array(classes), clients, draw(st.integers(1, max(1, len(classes) // clients // 2)))


@given(divided(), st.floats(1e-3, 1e4), st.integers(0, 2**40))
def test_dirichlet_gives_every_sample_once_and_keeps_the_smallest_shard(
    case: tuple[np.ndarray, int, int], alpha: float, seed: int
) -> None:
    classes, clients, least = case
    try:
        shards = dirichlet(classes, clients, alpha, seed, least)
    except UserError as error:
        assert str(error).startswith(f"data.min_shard={least}: in 1000 draws with data.alpha={alpha:g} ")
        return
    check_partition(shards, len(classes), clients, least)
    again = dirichlet(classes, clients, alpha, seed, least)
    assert all(map(np.array_equal, shards, again))


@given(divided(), st.integers(0, 2**40))
def test_groups_stay_whole_and_shards_as_even_as_they_allow(case: tuple[np.ndarray, int, int], seed: int) -> None:
    groups, clients, _ = case
    groups = np.unique(groups, return_inverse=True)[1]  # as sources are numbered
    if clients > groups.max() + 1:
        with pytest.raises(UserError, match=rf"^data.min_shard=1: {groups.max() + 1} sources cannot give each"):
            whole_groups(groups, clients, seed)
        return
    shards = whole_groups(groups, clients, seed)
    check_partition(shards, len(groups), clients, 1)
    assert sum(len(set(groups[shard].tolist())) for shard in shards) == groups.max() + 1
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= np.bincount(groups).max()


def check_partition(shards: list[np.ndarray], count: int, clients: int, least: int) -> None:
    assert len(shards) == clients
    assert sorted(np.concatenate(shards).tolist()) == list(range(count))
    assert min(map(len, shards)) >= least
    assert all(shard.dtype == np.int64 and (np.diff(shard) > 0).all() for shard in shards)


def test_alpha_goes_from_a_client_a_class_to_the_shares_of_iid() -> None:
    classes = Classes(np.arange(4000) % 8, [str(number) for number in range(8)])
    even = iid(4000, 5, 0)
    distances = [
        np.mean([skew(classes, dirichlet(classes.of, 5, alpha, seed)) for seed in range(10)])
        for alpha in (0.05, 0.5, 5, 50, 1e6)
    ]
    assert all(np.diff(distances) < 0), distances
    assert distances[0] > 0.5
    assert distances[-1] < 0.005 < skew(classes, even) < 0.1, "even shares, to a sample a class"
    sizes = [len(shard) for shard in dirichlet(classes.of, 5, 1e6, 0)]
    assert max(sizes) - min(sizes) <= 16


def test_another_seed_divides_otherwise() -> None:
    classes = np.arange(200) % 4
    for first, second in (
        (dirichlet(classes, 4, 0.5, 0), dirichlet(classes, 4, 0.5, 1)),
        (whole_groups(classes, 4, 0), whole_groups(classes, 4, 1)),
    ):
        assert any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_smallest_shard_out_of_reach_names_every_key() -> None:
    classes = np.arange(100) % 4
    with pytest.raises(UserError, match=r"^fed.clients=8 but data has 100 .* needs data.min_shard=13; lower"):
        dirichlet(classes, 8, 1.0, 0, min_shard=13)
    with pytest.raises(UserError, match=r"^data.min_shard=12: .* data.alpha=0.1 some of fed.clients=8 always had"):
        dirichlet(classes, 8, 0.1, 0, min_shard=12)
    with pytest.raises(UserError, match=r"^data.min_shard=40: 4 sources cannot give each of fed.clients=2 "):
        whole_groups(np.repeat(np.arange(4), (70, 10, 10, 10)), 2, 0, min_shard=40)
