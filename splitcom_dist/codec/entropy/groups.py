"""Symbols of rows of unlike spread: rows of one octave of mean magnitude share tables of the entropy coder."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from splitcom_dist.codec.entropy.coder import (
    max_bytes,
    max_symbol_bytes,
    pack_bytes,
    pack_symbols,
    unpack_bytes,
    unpack_symbols,
)
from splitcom_dist.errors import WireError

TOGETHER, GROUPED = 0, 1  # the first byte
OCTAVES = 32  # group 0 is all zeros, group 1 a mean magnitude of 2^-10
FEW = 32  # rows: below, tables for each group cost more than they save
_SIZE = struct.Struct("<I")


def max_row_bytes(rows: int, width: int) -> int:
    """The most bytes that `pack_rows` makes of (rows, width) symbols."""
    if rows < FEW:
        return 1 + max_symbol_bytes(rows, [width])
    groups = min(rows, OCTAVES)
    return 1 + _SIZE.size + max_bytes(rows) + groups * (_SIZE.size + 1) + max_symbol_bytes(rows, [width])


def pack_rows(symbols: NDArray[np.int32], bands: Sequence[int]) -> bytes:
    """(n, d) int32 to bytes, `bands` as in coder.py: few rows together, more of them in groups."""
    mean = np.abs(symbols).mean(axis=1)
    octaves = np.where(mean > 0, np.floor(np.log2(np.maximum(mean, 2.0**-10))) + 11, 0).clip(0, OCTAVES - 1)
    groups = octaves.astype(np.uint8)
    present = np.unique(groups)
    if len(symbols) < FEW or len(present) < 2:
        return bytes([TOGETHER]) + pack_symbols(symbols, bands)
    parts = [pack_bytes(groups), *(pack_symbols(symbols[groups == group], bands) for group in present)]
    return bytes([GROUPED]) + b"".join(_SIZE.pack(len(part)) + part for part in parts)


def unpack_rows(packed: bytes, rows: int, bands: Sequence[int]) -> NDArray[np.int32]:
    """(rows, bands[-1]) int32 from `pack_rows`; raises WireError for malformed bytes."""
    if not packed:
        raise WireError("symbols: 0 bytes, at least 1 expected")
    if packed[0] == TOGETHER:
        return unpack_symbols(packed[1:], rows, bands)
    if packed[0] != GROUPED:
        raise WireError(f"symbols: form {packed[0]} is unknown")
    part, rest = _split(packed[1:])
    groups = unpack_bytes(part, rows)
    symbols = np.empty((rows, bands[-1]), np.int32)
    for group in np.unique(groups):
        members = groups == group
        part, rest = _split(rest)
        symbols[members] = unpack_symbols(part, int(members.sum()), bands)
    if rest:
        raise WireError(f"symbols: {len(rest)} bytes behind the last group")
    return symbols


def _split(packed: bytes) -> tuple[bytes, bytes]:
    """The part whose size comes first, and what follows it."""
    if len(packed) < _SIZE.size or len(packed) < _SIZE.size + _SIZE.unpack_from(packed)[0]:
        raise WireError("symbols: a group is cut short")
    end = _SIZE.size + _SIZE.unpack_from(packed)[0]
    return packed[_SIZE.size : end], packed[end:]
