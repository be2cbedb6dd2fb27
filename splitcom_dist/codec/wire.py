"""The packet: a header and one uint8 body. Pure functions from sections to bytes and back.

Scales and symbols, the payload, may cross apart: from device to device, behind a message with all the rest.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splitcom_dist.codec.checksum import checksum, host_checksum
from splitcom_dist.codec.header import APART, PAYLOAD, SECTIONS, Expected, Header, header_bytes


def pack(header: Header, sections: dict[str, Tensor], payload: Tensor | None = None) -> Tensor:
    """Header and sections, which lie in host memory, as one uint8 vector.

    With a `payload`, scales and symbols as `join_payload` has put them, these two stay out of it.
    """
    (packet,) = in_messages(header, sections, sys.maxsize, payload)
    return packet


def in_messages(
    header: Header, sections: dict[str, Tensor], first: int, payload: Tensor | None = None
) -> tuple[Tensor, ...]:
    """As `pack`, in one vector of at most `first` bytes and a second with the rest, if any.

    A rest that belongs to one section is a view of it: of a packet whose symbols are all that is large, little is
    copied.
    """
    inside: Sequence[str] = SECTIONS
    of_payload = 0
    if payload is not None:
        inside, of_payload = SECTIONS[: -len(PAYLOAD)], checksum(payload)
        header = replace(header, flags=header.flags | APART)
    sizes = [sections[name].numel() if name in sections else 0 for name in SECTIONS]
    given = (sections[name] for name in inside if name in sections)
    parts = [section.contiguous().view(-1).numpy().data for section in given if section.numel()]
    body_checksum = host_checksum(*parts, before=of_payload)
    front, rest = bytearray(header_bytes(header, sizes, body_checksum)), []
    for part in parts:
        fits = min(len(part), first - len(front))
        front += part[:fits]
        if fits < len(part):
            rest.append(part[fits:])
    if len(rest) > 1:
        rest = [memoryview(bytearray().join(rest))]
    return tuple(torch.frombuffer(message, dtype=torch.uint8) for message in (front, *rest))


def join_payload(sections: dict[str, Tensor]) -> Tensor:
    """The payload of a packet as one uint8 vector, where its sections are."""
    parts = [sections[name].reshape(-1) for name in PAYLOAD if name in sections]
    return torch.cat(parts) if parts else _NOTHING


def parse_body(header: Header, body: Tensor, expected: Expected, payload: Tensor | None = None) -> dict[str, Tensor]:
    """Sections of a body (uint8), and of the payload that came apart, as views into them. Raises WireError if they
    are not what was sent."""
    whole = len(body) + (0 if payload is None else len(payload))
    if whole != header.body_bytes or (payload is not None and len(payload) != header.apart_bytes):
        raise expected.error("body", f"{whole} bytes, {header.body_bytes} expected")
    of_payload = 0 if payload is None else checksum(payload)
    if host_checksum(body.numpy().data, before=of_payload) != header.body_checksum:
        raise expected.error("body_checksum", "the body is not what was sent")
    sizes, behind = list(header.section_bytes), len(PAYLOAD)
    if payload is None:
        return dict(zip(SECTIONS, body.split(sizes), strict=True))
    sections = dict(zip(SECTIONS[:-behind], body.split(sizes[:-behind]), strict=True))
    return sections | dict(zip(PAYLOAD, payload.split(sizes[-behind:]), strict=True))


_NOTHING = torch.empty(0, dtype=torch.uint8)
