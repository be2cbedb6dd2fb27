"""Checksums of payloads: on a device the arithmetic is the paper's, on the host XXH3's; what changes is seen."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.checksum import checksum, host_checksum, row_checksums, weights

CPU = torch.device("cpu")


def splitmix64(index: int) -> int:
    state = index * 0x9E3779B97F4A7C15 % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def test_weights_are_splitmix64_made_odd() -> None:
    assert [weight % 2**64 for weight in weights(50, CPU).tolist()] == [splitmix64(index) | 1 for index in range(1, 51)]


@given(st.binary(max_size=200))
def test_a_checksum_is_the_upper_half_of_the_weighted_sum(raw: bytes) -> None:
    padded = raw + bytes(-len(raw) % 4)
    words = [int.from_bytes(padded[start : start + 4], "little") for start in range(0, len(padded), 4)]
    total = sum(word * (splitmix64(place) | 1) for place, word in enumerate(words, start=1))
    assert (
        checksum(torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0)) == total % 2**64 >> 32
    )


def test_every_flipped_pair_of_bits_is_seen() -> None:
    payload = torch.randint(0, 256, (24,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = checksum(payload)
    for one, two in itertools.combinations(range(24 * 8), 2):
        other = payload.clone()
        for bit in (one, two):
            other[bit // 8] ^= 1 << bit % 8
        assert checksum(other) != whole


@pytest.mark.parametrize(("scale_bytes", "symbol_bytes"), [(0, 8), (2, 5), (2, 64)])
def test_a_samples_checksum_hangs_on_its_own_rows_alone(scale_bytes: int, symbol_bytes: int) -> None:
    lengths = [3, 1, 5]
    generator = torch.Generator().manual_seed(1)
    scales = torch.randint(0, 256, (9 * scale_bytes,), dtype=torch.uint8, generator=generator)
    symbols = torch.randint(0, 256, (9 * symbol_bytes,), dtype=torch.uint8, generator=generator)
    together = row_checksums(scales, symbols, lengths)
    assert len(set(together)) == 3 and row_checksums(scales, symbols, []) == []
    start = 0
    for length, expected in zip(lengths, together, strict=True):
        stop = start + length
        alone = scales[start * scale_bytes : stop * scale_bytes], symbols[start * symbol_bytes : stop * symbol_bytes]
        assert row_checksums(*alone, [length]) == [expected]
        start = stop
    swapped = symbols.view(9, -1)[[1, 0, *range(2, 9)]].flatten()
    other = row_checksums(scales, swapped, lengths)
    assert other[0] != together[0] and other[1:] == together[1:]


def test_a_host_checksum_is_the_lower_half_of_xxh3_seeded_with_what_stands_before() -> None:
    assert host_checksum(b"") == 0x2D06800538D394C2 % 2**32  # XXH3's own test vector
    data = bytes(range(200))
    known = {host_checksum(data), host_checksum(data, before=1), host_checksum(data[:-1]), host_checksum(b"\0" + data)}
    assert len(known) == 4 and max(known) < 2**32
    assert host_checksum(data[:7], b"", data[7:], before=1) == host_checksum(data, before=1)
    flipped = {host_checksum(bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]])) for place in range(200)}
    assert len(flipped | known) == 204
