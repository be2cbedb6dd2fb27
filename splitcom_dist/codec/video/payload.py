"""Sections that all video links have alike: a map of frame kinds, and the positions' symbols behind the raw ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splitcom_dist.codec.entropy.coder import pack_bytes, unpack_bytes
from splitcom_dist.codec.entropy.groups import max_row_bytes, pack_rows, unpack_rows
from splitcom_dist.codec.sections import as_bytes, as_section
from splitcom_dist.errors import WireError


def pack_modes(modes: Tensor) -> Tensor:
    """Kinds of frames (n,) uint8, entropy-coded."""
    return as_section(pack_bytes(modes.numpy()))


def unpack_modes(sections: Mapping[str, Tensor], count: int, last: int) -> Tensor:
    """(count,) uint8. Raises WireError if one is above `last`."""
    modes = torch.from_numpy(unpack_bytes(as_bytes(sections, "modes"), count))
    if bool((modes > last).any()):
        raise WireError(f"modes: {int(modes.max())} is no kind of frame")
    return modes


def pack_payload(cold: Tensor, symbols: Tensor, bands: Sequence[int]) -> Tensor:
    """Cold rows (n_C, d), which are not finite or too large and so cross raw in bf16, then symbols (n, d) int32."""
    raw = cold.bfloat16().view(torch.uint8).flatten()
    return torch.cat([raw, as_section(pack_rows(symbols.numpy(), bands))])


def unpack_payload(
    sections: Mapping[str, Tensor], cold: int, count: int, bands: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Cold rows (cold, d) float32 and symbols (count, d) int32; d is the end of the last band. Raises WireError."""
    width = bands[-1]
    packed, raw = as_bytes(sections, "symbols"), 2 * width * cold
    if len(packed) < raw:
        raise WireError(f"symbols: {len(packed)} bytes cannot hold {raw} of raw positions")
    rows = torch.zeros(0, width)
    if raw:
        rows = sections["symbols"][:raw].clone().view(torch.bfloat16).view(-1, width).float()
    return rows, torch.from_numpy(unpack_rows(packed[raw:], count, bands))


def max_payload_bytes(tokens: int, width: int) -> int:
    """The most bytes that so many positions can take."""
    return max_row_bytes(tokens, width) + 2 * width * tokens
