"""The header of a packet: a fixed row of int64. Pure functions from fields to bytes and back.

A receiver believes a header only after `parse_header`: magic, version, checksum, what the schedule expects at this
point, and every length against what the configuration allows. Only then does it know how long the body is.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

from torch import Tensor

from splitcom_dist.errors import WireError
from splitcom_dist.links import LINKS

MAGIC = 0x53504C4954434F4D  # "SPLITCOM"
VERSION = 4
SECTIONS = ("manifest", "labels", "side", "modes", "scales", "symbols")
PAYLOAD = SECTIONS[-2:]
SIZES = tuple(f"{section}_bytes" for section in SECTIONS)
COUNTS = ("n_i", "n_p", "n_s", "n_c")
BEFORE = ("link", "step", "client", "flags", "samples", "tokens", "targets", *COUNTS)
DIGESTS = ("store_digest", "answer_digest")
FIELDS = ("magic", "version", *BEFORE, *SIZES, *DIGESTS, "body_checksum", "header_crc")
HEADER = struct.Struct(f"<{len(FIELDS)}q")
CRC = struct.Struct("<q")  # of the header: its last field
RESYNC = 1  # flag of an answer: "my store differed from yours and is empty now; send this batch again as I frames"
FRESH = 2  # flag: "your store differed from mine; empty yours before you decode, all of this is I frames"
ABSENT = 4  # flag in place of a batch: "go on without me in this step"; a header alone
MOVED = 16  # flag: "the body is what the optimizer remembers of blocks that change hands"; no batch
APART = 8  # flag: "the payload is not in this message, it comes behind it from device to device"


@dataclass(frozen=True)
class Header:
    """The fields a sender chooses; magic, version, lengths and checksums are filled in by `pack`.

    `targets` is a count and no label: the server weighs a U-shape client's gradient by it. `store_digest` is that of
    this link's store before the packet, `answer_digest` that of the store which the answer will meet.
    """

    link: int
    step: int
    client: int
    samples: int = 0
    tokens: int = 0
    targets: int = 0
    n_i: int = 0
    n_p: int = 0
    n_s: int = 0
    n_c: int = 0
    flags: int = 0
    store_digest: int = 0
    answer_digest: int = 0
    section_bytes: tuple[int, ...] = (0,) * len(SECTIONS)
    body_checksum: int = 0

    @property
    def body_bytes(self) -> int:
        return sum(self.section_bytes)

    @property
    def apart_bytes(self) -> int:
        """Of the payload, if it crosses apart."""
        return sum(self.section_bytes[-len(PAYLOAD) :]) if self.flags & APART else 0


@dataclass(frozen=True)
class Expected:
    """What the schedule and the configuration allow at this point; all counts are maxima but link, step, client."""

    peer: str
    link: int
    step: int
    client: int
    max_samples: int
    max_tokens: int
    section_bytes: tuple[int, ...]  # largest size of each section
    max_targets: int = 0
    flags: int = 0  # flags that may be set
    apart: bool = False  # whether the payload crosses apart: agreed beforehand, not chosen by the sender
    intra_bytes: tuple[int, int] | None = None  # exact bytes of scales and symbols an I position, where fixed

    @property
    def max_bytes(self) -> int:
        return HEADER.size + sum(self.section_bytes)

    def error(self, field: str, reason: str) -> WireError:
        return WireError(f"{self.peer}, {LINKS[self.link]}, step {self.step}: {field}: {reason}")


def header_bytes(header: Header, section_bytes: Sequence[int], body_checksum: int) -> bytes:
    """A header as it crosses, with what only its packet tells."""
    named = *_before(header), *section_bytes, *_digests(header), body_checksum
    raw = HEADER.pack(MAGIC, VERSION, *named, 0)[: -CRC.size]
    return raw + CRC.pack(zlib.crc32(raw))


def parse_header(first: Tensor, expected: Expected) -> Header:
    """The header at the front of a message (uint8). Raises WireError naming peer, link, step and field."""
    if first.numel() < HEADER.size:
        raise expected.error("header", f"{first.numel()} bytes, {HEADER.size} expected")
    raw = first.numpy().data[: HEADER.size]
    values = dict(zip(FIELDS, HEADER.unpack(raw), strict=True))
    for field, wanted in (("magic", MAGIC), ("version", VERSION), ("header_crc", zlib.crc32(raw[: -CRC.size]))):
        if values[field] != wanted:
            raise expected.error(field, f"{values[field]}, {wanted} expected")
    for field in ("link", "step", "client"):
        if values[field] != getattr(expected, field):
            raise expected.error(field, f"{values[field]}, {getattr(expected, field)} expected")
    sizes = tuple(values[field] for field in SIZES)
    _check_ranges(values, sizes, expected)
    return Header(**{field: values[field] for field in _OWN}, section_bytes=sizes)


_OWN = [field.name for field in fields(Header) if field.name != "section_bytes"]
_before, _digests = attrgetter(*BEFORE), attrgetter(*DIGESTS)


def _check_ranges(values: dict[str, int], sizes: tuple[int, ...], expected: Expected) -> None:
    limits = (
        ("samples", expected.max_samples),
        ("tokens", expected.max_tokens),
        ("targets", expected.max_targets),
        *((field, 2**63 - 1) for field in DIGESTS),
        *zip(SIZES, expected.section_bytes, strict=True),
        *((field, values["tokens"]) for field in COUNTS),
        ("body_checksum", 2**32 - 1),
    )
    for field, limit in limits:
        if not 0 <= values[field] <= limit:
            raise expected.error(field, f"{values[field]} is not within 0 and {limit}")
    if values["flags"] & ~(expected.flags | APART) or bool(values["flags"] & APART) != expected.apart:
        raise expected.error("flags", f"{values['flags']} is not allowed here")
    if values["flags"] & ABSENT and (values["samples"] or values["tokens"] or values["targets"] or sum(sizes)):
        raise expected.error("flags", f"{ABSENT} says that there is no batch, but there is one")
    if sum(values[field] for field in COUNTS) != values["tokens"]:
        raise expected.error("n_i", "frame counts do not add up to the tokens")
    for field, size in zip(SIZES[-len(PAYLOAD) :], expected.intra_bytes or (), strict=False):
        if values[field] != size * values["n_i"]:
            raise expected.error(field, f"{values[field]} for {values['n_i']} positions of {size} bytes")
