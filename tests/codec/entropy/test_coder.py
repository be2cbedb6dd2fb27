"""Symbols and bytes come back exactly, near their entropy, never above the bound; bad bytes raise WireError at once."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from splitcom_dist.codec.entropy import coder as entropy
from splitcom_dist.codec.entropy import tables
from splitcom_dist.codec.entropy.coder import (
    max_bytes,
    max_symbol_bytes,
    pack_bytes,
    pack_symbols,
    unpack_bytes,
    unpack_symbols,
)
from splitcom_dist.errors import WireError

BANDS = st.sampled_from([[1], [7], [3, 4], [8, 32, 192], [1, 2, 3, 40]])
SMALL, LARGE, ANY = (st.integers(-limit, limit - 1) for limit in (3, 2**20, 2**31))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[entropy.Symbols, list[int]]:
    """Symbols near zero with a few large ones, or any int32; some bands all zero, some constant."""
    bands = draw(BANDS)
    rows = draw(st.integers(0, 12))
    fill = draw(st.sampled_from([SMALL, LARGE, ANY]))
    symbols = draw(hnp.arrays(np.int32, (rows, bands[-1]), elements=fill, fill=SMALL))
    for start, stop in zip([0, *bands[:-1]], bands, strict=True):
        constant = draw(st.one_of(st.none(), st.sampled_from([0, 1, -63, 64, -64, 319, 30000, -(2**31), 2**31 - 1])))
        if constant is not None:
            symbols[:, start:stop] = constant
    return symbols, bands


def gaussian(rows: int, width: int, std: float, seed: int = 0) -> entropy.Symbols:
    return np.rint(np.random.default_rng(seed).normal(0, std, (rows, width))).astype(np.int32)


def entropy_bytes(values: tables.Integers | entropy.Symbols | NDArray[np.uint8]) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


@settings(max_examples=300, deadline=None)
@given(matrices())
def test_symbols_come_back_within_the_bound(case: tuple[entropy.Symbols, list[int]]) -> None:
    symbols, bands = case
    before = symbols.copy()
    symbols.flags.writeable = False
    packed = pack_symbols(symbols, bands)
    again = unpack_symbols(packed, len(symbols), bands)
    assert again.dtype == np.int32 and again.shape == symbols.shape
    np.testing.assert_array_equal(again, symbols)
    np.testing.assert_array_equal(symbols, before)  # the caller's array is only read
    assert len(packed) <= max_symbol_bytes(len(symbols), bands)


@pytest.mark.parametrize("magnitude", [62, 63, 64, 65, 319, 320, 321, 65599, 65600, 2**24 + 63, 2**24 + 64, 2**31 - 1])
def test_the_edges_of_the_escape_classes(magnitude: int) -> None:
    symbols = gaussian(50, 40, 1.0)
    symbols[3, 5], symbols[7, 11] = magnitude, -magnitude
    np.testing.assert_array_equal(unpack_symbols(pack_symbols(symbols, [40]), 50, [40]), symbols)


@pytest.mark.parametrize("std", [0.2, 0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize(("rows", "width"), [(300, 192), (1000, 576)])
def test_size_is_near_the_empirical_entropy(rows: int, width: int, std: float) -> None:
    symbols = gaussian(rows, width, std)
    assert len(pack_symbols(symbols, [width])) <= 1.02 * entropy_bytes(symbols) + 64


def test_the_table_of_a_small_packet_is_small() -> None:
    symbols = gaussian(10, 192, 3.0)
    assert len(pack_symbols(symbols, [192])) <= entropy_bytes(symbols) + 16


def test_bands_of_unlike_spread_have_tables_of_their_own() -> None:
    symbols = np.hstack([gaussian(300, 8, 8.0), gaussian(300, 24, 2.0), gaussian(300, 160, 0.3)])
    parts = sum(map(entropy_bytes, np.split(symbols, [8, 32], axis=1)))
    assert len(pack_symbols(symbols, [8, 32, 192])) <= 1.02 * parts + 64
    assert len(pack_symbols(symbols, [8, 32, 192])) < 0.9 * len(pack_symbols(symbols, [192]))


def test_rare_large_symbols_cost_a_few_bytes_each() -> None:
    symbols = gaussian(300, 192, 2.0)
    plain = len(pack_symbols(symbols, [192]))
    symbols[::30, 17] = 30000
    assert len(pack_symbols(symbols, [192])) <= plain + 10 * 5 + 8


def test_zero_bands_cost_one_byte_each_and_no_rows_none() -> None:
    assert len(pack_symbols(np.zeros((4000, 576), np.int32), [8, 64, 576])) == 3
    assert pack_symbols(np.zeros((0, 576), np.int32), [576]) == b""
    assert len(pack_symbols(np.full((4000, 576), -7, np.int32), [576])) <= 8


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_noise_is_sent_raw(bits: int) -> None:
    noise = np.random.default_rng(1).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (200, 32)).astype(np.int32)
    packed = pack_symbols(noise, [32])
    assert len(packed) <= 1 + bits // 8 * noise.size
    np.testing.assert_array_equal(unpack_symbols(packed, 200, [32]), noise)


BYTES = st.one_of(
    hnp.arrays(np.uint8, st.integers(0, 300)),
    hnp.arrays(np.uint8, st.integers(0, 300), elements=st.integers(0, 3)),
    hnp.arrays(np.int8, st.integers(0, 300), elements=st.integers(-2, 2)).map(lambda a: a.cumsum().astype(np.uint8)),
)


@settings(max_examples=300, deadline=None)
@given(BYTES)
def test_bytes_come_back_within_the_bound(values: NDArray[np.uint8]) -> None:
    packed = pack_bytes(values)
    assert len(packed) <= max_bytes(len(values))
    np.testing.assert_array_equal(unpack_bytes(packed, len(values)), values)


def test_bytes_choose_the_shortest_form() -> None:
    random = np.random.default_rng(2)
    assert len(pack_bytes(np.full(5000, 77, np.uint8))) == 2
    assert len(pack_bytes(random.integers(0, 256, 5000).astype(np.uint8))) == 5001
    modes = random.choice(3, 5000, p=[0.05, 0.05, 0.9]).astype(np.uint8)
    assert len(pack_bytes(modes)) <= 1.02 * entropy_bytes(modes) + 16
    codes = (250 + random.integers(-1, 2, 5000).cumsum()).astype(np.uint8)  # passes 255 -> 0
    assert len(pack_bytes(codes)) <= 1.02 * entropy_bytes(np.diff(codes)) + 16


def test_bytes_do_not_depend_on_the_machine() -> None:
    """Golden: a change of these bytes is a change of the wire."""
    steps = np.arange(300 * 192, dtype=np.int64)
    noise = np.sum([steps * k % p * 64 // p - 31 for k, p in ((7919, 65537), (104729, 99991), (129709, 64007))], axis=0)
    symbols = (noise // 8).astype(np.int32).reshape(300, 192)
    symbols[:, 100:] //= 4
    symbols[5, 5] = -30000
    small = symbols[:10].copy()
    packets = [
        pack_symbols(symbols, [8, 100, 192]),
        pack_symbols(small, [100, 192]),
        pack_bytes((symbols[:, 0] + 250).astype(np.uint8)),
    ]
    digests = [hashlib.sha256(packet).hexdigest()[:16] for packet in packets]
    assert digests == ["aac7aba0e4fb2ca1", "9929f21cd334ca2a", "e87907a697a4343b"]


def test_fixed_point_logarithm_is_exact_to_its_last_bit() -> None:
    numbers = np.array([1, 2, 3, 7, 1000, 2**16 - 1, 2**31, 2**40 + 12345], np.int64)
    np.testing.assert_allclose(tables._log2(numbers) / 2**tables.FRACTION, np.log2(numbers), atol=2e-4)


def test_a_count_of_one_byte_keeps_four_leading_bits() -> None:
    for count in [*range(300), 10**6, 2**31]:
        code = tables._shorten(count)
        assert 0 <= code <= 255 and abs(tables._lengthen(code) - count) <= count / 16


def unpack_or_refuse(packed: bytes, rows: int, bands: list[int]) -> None:
    try:
        symbols = unpack_symbols(packed, rows, bands)
    except WireError as error:
        assert str(error).startswith("symbols: ") and "\n" not in str(error)
    else:
        assert symbols.shape == (rows, bands[-1]) and symbols.dtype == np.int32


def unpack_bytes_or_refuse(packed: bytes, count: int) -> None:
    try:
        values = unpack_bytes(packed, count)
    except WireError as error:
        assert str(error).startswith("bytes: ") and "\n" not in str(error)
    else:
        assert values.shape == (count,) and values.dtype == np.uint8


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 20), BANDS, st.sampled_from([b"", b"\xff", b"\xff\x00\x87", b"\x10"]))
def test_random_bytes_give_an_array_or_a_wire_error(packed: bytes, rows: int, bands: list[int], start: bytes) -> None:
    unpack_or_refuse(start + packed, rows, bands)
    unpack_bytes_or_refuse(start + packed, rows)
    unpack_bytes_or_refuse(bytes([entropy.DIRECTLY, 9]) + start + packed, rows)


def test_thousands_of_mutations_give_an_array_or_a_wire_error() -> None:
    random = np.random.default_rng(3)
    symbols = gaussian(12, 40, 2.0)
    symbols[2, 3] = 30000
    modes = random.integers(0, 4, 60).astype(np.uint8)
    packets = [pack_symbols(symbols, [8, 40]), pack_symbols(np.clip(symbols, -2, 2), [8, 40]), pack_bytes(modes)]
    started = time.perf_counter()
    for _ in range(2000):
        for packed in packets:
            mutated = bytearray(packed)
            for _ in range(random.integers(1, 5)):
                at = random.integers(0, min(len(mutated), random.choice([8, 40, 1000])))  # mostly in the tables
                value = mutated[at] ^ 1 << int(random.integers(8))
                mutated[at] = value if random.random() < 0.5 else int(random.integers(256))
            cut = random.integers(0, len(mutated) + 1) if random.random() < 0.3 else len(mutated)
            unpack_or_refuse(bytes(mutated[:cut]), 12, [8, 40])
            unpack_bytes_or_refuse(bytes(mutated[:cut]), len(modes))
    assert time.perf_counter() - started < 20


def test_trailing_and_missing_bytes_are_refused() -> None:
    symbols = gaussian(100, 40, 2.0)
    packed = pack_symbols(symbols, [8, 40])
    for bad in (packed + b"\0", packed + b"\1", packed + b"1234", packed[:1], b"", packed * 9):
        with pytest.raises(WireError, match="symbols: "):
            unpack_symbols(bad, 100, [8, 40])
    with pytest.raises(WireError, match="left over"):
        unpack_symbols(packed, 99, [8, 40])
    for bad in (b"\0\5\5", b"\3\5\5", b"\7\5", b"\0"):
        with pytest.raises(WireError, match="bytes: "):
            unpack_bytes(bad, 9)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (bytes(162), "162 bytes, at most 161"),
        (bytes([entropy.RAW[1]]) + bytes(39), "39 raw bytes"),
        (bytes([200]), "unknown table 200"),
        (bytes([tables.EXPLICIT, 60, 3, 1, 1]), "cut short"),
        (bytes([tables.EXPLICIT, 60, 3, 0]), "cut short"),
        (bytes([tables.EXPLICIT, 60, 3, 0, 3]), "a table of 3 classes"),  # without weight
        (bytes([tables.EXPLICIT, 60, 3, 1, 0, 3]), "a table of 4 classes"),  # a run beyond its end
        (bytes([tables.EXPLICIT, 60, 0, 1]), "a table of 0 classes"),
        (bytes([tables.EXPLICIT, 134, 2, 1, 1]), "a table of 2 classes from 134"),  # beyond the last class
    ],
)
def test_what_is_wrong_with_symbols_is_said(packed: bytes, message: str) -> None:
    with pytest.raises(WireError, match=f"symbols: .*{message}"):
        unpack_symbols(packed, 4, [10])


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (bytes([entropy.PLAIN]) + bytes(10), "11 bytes, at most 10"),
        (bytes([entropy.PLAIN]) + bytes(8), "8 raw bytes"),
        (bytes([7, 5, 0]), "unknown form 7"),
        (bytes([entropy.DIFFERENCES, 5, 200]), "unknown table 200"),
        (bytes([entropy.DIFFERENCES, 0]) + pack_symbols(np.full((9, 1), 300, np.int32), [1]), "beyond one byte"),
    ],
)
def test_what_is_wrong_with_bytes_is_said(packed: bytes, message: str) -> None:
    with pytest.raises(WireError, match=f"bytes: .*{message}"):
        unpack_bytes(packed, 9 if len(packed) < 12 else 100)


def test_a_symbol_beyond_32_bits_is_refused() -> None:
    # The first of 40 symbols escapes with four bytes, the rest with three; all bytes are 255: 64 + 2^32 - 1.
    table = bytes([tables.EXPLICIT, 2 * tables.TOP - 1, 2, 1, 1])
    coder = entropy._ans()
    coder.encode_reverse(np.full(1 + 3 * 40, 255, np.int32), entropy._BYTE)
    coder.encode_reverse(np.eye(1, 40, dtype=np.int32)[0], entropy._model(np.array([1, 1], np.int64)))
    with pytest.raises(WireError, match="beyond 32 bits"):
        unpack_symbols(table + coder.get_compressed().tobytes().rstrip(b"\0"), 1, [40])
