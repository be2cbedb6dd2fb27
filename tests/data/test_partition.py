"""Every training sample belongs to exactly one client."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.data.partition import iid
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
