"""The header of a packet: a fixed row of int64. Pure functions from fields to bytes and back.

A receiver believes a header only after `parse_header`: magic, version, checksum, what the schedule expects at this
point, and every length against what the configuration allows. Only then does it know how long the body is.
"""

import struct
import zlib
from dataclasses import dataclass, fields

from torch import Tensor

from splitcom_dist.errors import WireError
from splitcom_dist.links import LINKS

MAGIC = 0x53504C4954434F4D  # "SPLITCOM"
VERSION = 4
SECTIONS = ("manifest", "labels", "side", "modes", "scales", "symbols")
PAYLOAD = SECTIONS[-2:]
FIELDS = (
    "magic", "version", "link", "step", "client", "flags", "samples", "tokens", "targets", "n_i", "n_p", "n_s",
    "n_c",
    *(f"{section}_bytes" for section in SECTIONS), "store_digest", "answer_digest",
    "body_checksum", "header_crc",
)  # fmt: skip
HEADER = struct.Struct(f"<{len(FIELDS)}q")
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


def parse_header(first: Tensor, expected: Expected) -> Header:
    """The header at the front of a message (uint8). Raises WireError naming peer, link, step and field."""
    if len(first) < HEADER.size:
        raise expected.error("header", f"{len(first)} bytes, {HEADER.size} expected")
    raw = bytes(first[: HEADER.size].numpy())
    values = dict(zip(FIELDS, HEADER.unpack(raw), strict=True))
    for field, wanted in (("magic", MAGIC), ("version", VERSION), ("header_crc", _crc(raw[:-8]))):
        if values[field] != wanted:
            raise expected.error(field, f"{values[field]}, {wanted} expected")
    for field in ("link", "step", "client"):
        if values[field] != getattr(expected, field):
            raise expected.error(field, f"{values[field]}, {getattr(expected, field)} expected")
    _check_ranges(values, expected)
    return Header(
        **{field.name: values[field.name] for field in fields(Header) if field.name != "section_bytes"},
        section_bytes=tuple(values[f"{section}_bytes"] for section in SECTIONS),
    )


def _check_ranges(values: dict[str, int], expected: Expected) -> None:
    sizes = [values[f"{name}_bytes"] for name in SECTIONS]
    limits = {"samples": expected.max_samples, "tokens": expected.max_tokens, "targets": expected.max_targets}
    limits |= dict.fromkeys(("store_digest", "answer_digest"), 2**63 - 1)
    limits |= {f"{name}_bytes": size for name, size in zip(SECTIONS, expected.section_bytes, strict=True)}
    limits |= {
        "n_i": values["tokens"],
        "n_p": values["tokens"],
        "n_s": values["tokens"],
        "n_c": values["tokens"],
        "body_checksum": 2**32 - 1,
    }
    for field, limit in limits.items():
        if not 0 <= values[field] <= limit:
            raise expected.error(field, f"{values[field]} is not within 0 and {limit}")
    if values["flags"] & ~(expected.flags | APART) or bool(values["flags"] & APART) != expected.apart:
        raise expected.error("flags", f"{values['flags']} is not allowed here")
    if values["flags"] & ABSENT and (values["samples"] or values["tokens"] or values["targets"] or sum(sizes)):
        raise expected.error("flags", f"{ABSENT} says that there is no batch, but there is one")
    if values["n_i"] + values["n_p"] + values["n_s"] + values["n_c"] != values["tokens"]:
        raise expected.error("n_i", "frame counts do not add up to the tokens")
    for field, size in zip(("scales_bytes", "symbols_bytes"), expected.intra_bytes or (), strict=False):
        if values[field] != size * values["n_i"]:
            raise expected.error(field, f"{values[field]} for {values['n_i']} positions of {size} bytes")


def header_bytes(header: Header) -> bytes:
    named = {"magic": MAGIC, "version": VERSION, "header_crc": 0}
    named |= {field: getattr(header, field) for field in FIELDS if hasattr(header, field)}
    named |= {f"{name}_bytes": size for name, size in zip(SECTIONS, header.section_bytes, strict=True)}
    raw = HEADER.pack(*(named[field] for field in FIELDS))
    return raw[:-8] + struct.pack("<q", _crc(raw[:-8]))


def _crc(raw: bytes) -> int:
    return zlib.crc32(raw)
