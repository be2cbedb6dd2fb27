"""Rows of like spread share tables: the same symbols come back, in fewer bytes than one table for all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.entropy.coder import pack_symbols
from splitcom_dist.codec.entropy.groups import FEW, max_row_bytes, pack_rows, unpack_rows
from splitcom_dist.errors import WireError


def rows_of(count: int, width: int, spread: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale = np.exp2(random.uniform(-spread, spread, (count, 1)))
    return np.rint(random.normal(0, 1, (count, width)) * scale).clip(-(2**20), 2**20).astype(np.int32)


@given(
    count=st.integers(0, 3 * FEW),
    width=st.sampled_from([1, 5, 24]),
    spread=st.sampled_from([0.0, 2.0, 18.0]),
    seed=st.integers(0, 99),
)
def test_symbols_come_back_and_sizes_are_bounded(count: int, width: int, spread: float, seed: int) -> None:
    symbols = rows_of(count, width, spread, seed)
    for bands in ([width], [1, width] if width > 1 else [1]):
        packed = pack_rows(symbols, bands)
        assert len(packed) <= max_row_bytes(count, width)
        assert np.array_equal(unpack_rows(packed, count, bands), symbols)


def test_groups_save_bytes_where_spreads_differ() -> None:
    symbols = rows_of(400, 96, 4.0, 0)
    assert len(pack_rows(symbols, [96])) < 0.85 * len(pack_symbols(symbols, [96]))


@pytest.mark.parametrize("count", [FEW // 2, 2 * FEW])
def test_malformed_bytes_are_refused_or_give_the_right_shape(count: int) -> None:
    packed, random = pack_rows(rows_of(count, 24, 3.0, 1), [24]), np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        bad = bytearray(packed)
        if random.random() < 0.5:
            bad[random.integers(len(bad))] ^= 1 << int(random.integers(8))
        else:
            bad = bad[: random.integers(len(bad))]
        try:
            assert unpack_rows(bytes(bad), count, [24]).shape == (count, 24)
        except WireError:
            refused += 1
    assert refused > 700
    for wrong in (b"", b"\2" + packed[1:], packed + b"\1"):
        with pytest.raises(WireError):
            unpack_rows(wrong, count, [24])
