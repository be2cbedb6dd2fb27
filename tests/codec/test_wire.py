"""A packet that is not what was sent is refused by name before anything believes it."""

import struct
import tracemalloc
import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec import wire
from splitcom_dist.codec.header import ABSENT, FIELDS, HEADER, SECTIONS, Expected, Header, parse_header
from splitcom_dist.codec.labels import LabelCache, LabelSender
from splitcom_dist.codec.manifest import named_visit, pack_manifest
from splitcom_dist.errors import WireError

EXPECTED = Expected("rank 1 (client 1)", 0, 5, 1, 8, 64, (48, 100, 64, 1, 128, 4096))


def example() -> Tensor:
    header = Header(link=0, step=5, client=1, samples=2, tokens=7, n_i=3, n_s=4, store_digest=77, answer_digest=78)
    sections = {
        "manifest": torch.from_numpy(pack_manifest([9, 4], [3, 4], {})),
        "modes": torch.tensor([1], dtype=torch.uint8),
        "symbols": torch.arange(48, dtype=torch.uint8),
    }
    return wire.pack(header, sections)


def read(packet: Tensor) -> tuple[Header, dict[str, Tensor]]:
    header = parse_header(packet, EXPECTED)
    sections = wire.parse_body(header, packet[HEADER.size :], EXPECTED)
    named_visit(header, sections["manifest"], None, EXPECTED)
    return header, sections


def test_round_trip() -> None:
    packet = example()
    header, sections = read(packet)
    visit = named_visit(header, sections["manifest"], None, EXPECTED)
    assert (visit.samples, visit.lengths.tolist(), visit.tokens) == ([9, 4], [3, 4], 7)
    assert (header.tokens, header.n_i, header.n_s, header.store_digest, header.answer_digest) == (7, 3, 4, 77, 78)
    assert torch.equal(sections["symbols"], torch.arange(48, dtype=torch.uint8))
    assert len(packet) == HEADER.size + header.body_bytes


def forge(field: str, value: int) -> Tensor:
    """A packet whose header field is changed by someone who also mends the header's checksum."""
    packet = example()
    values = dict(zip(FIELDS, HEADER.unpack(bytes(packet[: HEADER.size].numpy())), strict=True))
    values[field] = value
    raw = HEADER.pack(*values.values())
    if field != "header_crc":
        raw = raw[:-8] + struct.pack("<q", zlib.crc32(raw[:-8]))
    packet[: HEADER.size] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return packet


@pytest.mark.parametrize("field", FIELDS)
@settings(max_examples=100)
@given(value=st.integers(-(2**63), 2**63 - 1))
def test_a_forged_header_field_is_refused(field: str, value: int) -> None:
    packet = forge(field, value)
    if torch.equal(packet, example()) or (field in ("store_digest", "answer_digest") and value >= 0):
        return  # unchanged, or a digest: any is legal here, and the server compares it with its store's
    with pytest.raises(WireError, match=r"rank 1 \(client 1\), up_activation, step 5: "):
        read(packet)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("bit", range(64))
def test_a_flipped_header_bit_is_refused(field: str, bit: int) -> None:
    packet = example()
    packet[8 * FIELDS.index(field) + bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        read(packet)


def test_every_flipped_body_bit_is_refused() -> None:
    for position in range(HEADER.size, len(example())):
        for bit in range(8):
            packet = example()
            packet[position] ^= 1 << bit
            with pytest.raises(WireError, match="body_checksum"):
                read(packet)


def test_truncated_and_extended_packets_are_refused() -> None:
    packet = example()
    for size in range(len(packet)):
        with pytest.raises(WireError):
            read(packet[:size])
    with pytest.raises(WireError, match="body"):
        read(torch.cat([packet, torch.zeros(1, dtype=torch.uint8)]))


def test_ten_thousand_random_packets_are_refused_without_allocating() -> None:
    generator = torch.Generator().manual_seed(0)
    tracemalloc.start()
    for case in range(10_000):
        size = int(torch.randint(0, 400, (1,), generator=generator))
        packet = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        if case % 2 and size >= 16:  # half of them look right at first
            packet[:16] = example()[:16]
        with pytest.raises(WireError):
            read(packet)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_sizes_beyond_the_configuration_are_refused_before_the_body_is_read() -> None:
    for section, limit in zip(SECTIONS, EXPECTED.section_bytes, strict=True):
        with pytest.raises(WireError, match=f"{section}_bytes"):
            parse_header(forge(f"{section}_bytes", limit + 1), EXPECTED)


def test_frame_counts_that_do_not_fit_the_payload_are_refused() -> None:
    exact = replace(EXPECTED, intra_bytes=(0, 16))
    assert parse_header(example(), exact).n_i == 3
    lying = wire.pack(Header(link=0, step=5, client=1, samples=2, tokens=7, n_i=4, n_s=3), sections_of(example()))
    with pytest.raises(WireError, match="symbols_bytes: 48 for 4 positions of 16 bytes"):
        parse_header(lying, exact)


def sections_of(packet: Tensor) -> dict[str, Tensor]:
    return read(packet)[1]


def test_a_manifest_whose_lengths_are_not_the_headers_tokens_is_refused() -> None:
    header, _ = read(example())
    with pytest.raises(WireError, match="manifest: lengths \\[3, 5\\] do not make 7 tokens"):
        named_visit(header, torch.from_numpy(pack_manifest([9, 4], [3, 5], {})), None, EXPECTED)


def test_labels_cross_once_and_are_cached() -> None:
    sender, cache = LabelSender(4096), LabelCache(4096)
    targets = [torch.tensor([5, 6]), torch.tensor([7])]
    lengths = torch.tensor([3, 4])
    first = sender.pack([1, 2], targets)
    assert len(first) == 2 * 2 + 3 * 2
    assert [t.tolist() for t in cache.unpack(first, [1, 2], lengths)] == [[5, 6], [7]]
    again = sender.pack([2, 1], targets[::-1])
    assert len(again) == 0
    assert [t.tolist() for t in cache.unpack(again, [2, 1], lengths.flip(0))] == [[7], [5, 6]]


@pytest.mark.parametrize("vocabulary", [4096, 50257, 128_000])
def test_bad_labels_are_refused_and_not_cached(vocabulary: int) -> None:
    lengths = torch.tensor([3])
    good = LabelSender(vocabulary).pack([1], [torch.tensor([5, vocabulary - 1])])
    bad = [good[:1], good[:-1], torch.cat([good, good[-1:]])]
    beyond = LabelSender(vocabulary).pack([1], [torch.tensor([5, min(vocabulary, 65_535)])])
    bad += [beyond] if vocabulary in (4096, 50257) else []
    bad.append(LabelSender(vocabulary).pack([1], [torch.tensor([5, 6, 7, 8])]))  # more targets than positions
    bad.append(torch.empty(0, dtype=torch.uint8))
    for packed in bad:
        cache = LabelCache(vocabulary)
        with pytest.raises(WireError, match="labels"):
            cache.unpack(packed, [1], lengths)
        with pytest.raises(WireError, match="none are cached"):
            cache.unpack(torch.empty(0, dtype=torch.uint8), [1], lengths)


def test_absence_is_a_header_alone_and_only_where_it_may_be_told() -> None:
    absence = wire.pack(Header(link=0, step=5, client=1, flags=ABSENT), {})
    with pytest.raises(WireError, match=r"^rank 1 \(client 1\), up_activation, step 5: flags: 4 is not allowed here$"):
        parse_header(absence, EXPECTED)
    allowed = replace(EXPECTED, flags=ABSENT)
    assert len(absence) == HEADER.size and parse_header(absence, allowed).flags == ABSENT
    one = torch.ones(1, dtype=torch.uint8)
    for samples, sections in ((2, {}), (0, {"modes": one})):
        packet = wire.pack(Header(link=0, step=5, client=1, samples=samples, flags=ABSENT), sections)
        with pytest.raises(WireError, match="flags: 4 says that there is no batch, but there is one"):
            parse_header(packet, allowed)


@given(first=st.integers(HEADER.size, HEADER.size + 120), sizes=st.lists(st.integers(0, 40), min_size=6, max_size=6))
def test_in_messages_a_packet_is_the_same_and_a_rest_of_one_section_is_not_copied(first: int, sizes: list[int]) -> None:
    sections = {
        name: torch.arange(100 * place, 100 * place + size).to(torch.uint8)
        for place, (name, size) in enumerate(zip(SECTIONS, sizes, strict=True))
    }
    sections["labels"] = sections["labels"].repeat_interleave(2)[::2]  # need not be contiguous
    header = Header(link=0, step=5, client=1)
    whole, messages = wire.pack(header, sections), wire.in_messages(header, sections, first)
    assert torch.equal(torch.cat(messages), whole)
    assert len(messages[0]) == min(first, len(whole)) and len(messages) == (1 if len(whole) <= first else 2)
    behind = len(whole) - first
    if 0 < behind <= sizes[-1]:
        last = sections[SECTIONS[-1]]
        assert messages[1].data_ptr() == last.data_ptr() + len(last) - behind
