"""Small signed symbols and side-information bytes to few bytes and back, by rANS with a table sent in the packet.

A packet of symbols is one table for each band of columns, then one rANS stream (Duda et al. 2015, arXiv:1311.2540;
the coder is constriction's). Symbols below `DIRECT` in magnitude have a class each; a larger one is an escape class,
which says its sign and how many bytes of magnitude follow. Whatever would grow is sent raw, so `max_symbol_bytes` and
`max_bytes` hold for any input.

Both ends build tables from integers alone. constriction turns weights into probabilities of 24 bits by one float64
division, and by products and sums that IEEE 754 fixes to the last bit: the same on every machine.
"""

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

from splitcom_dist.codec.entropy.tables import CLASSES, DIRECT, TOP, Integers, Malformed, choose_table, read_table
from splitcom_dist.errors import WireError

Symbols = NDArray[np.int32]

RAW = {1: 251, 2: 252, 4: 254}  # only the first byte of a packet: int8, int16 or int32 symbols follow, little endian
SAME, DIRECTLY, DIFFERENCES, PLAIN = range(4)  # the first byte of packed bytes

_ans = constriction.stream.stack.AnsCoder
_BYTE = constriction.stream.model.Uniform(256)


def max_symbol_bytes(rows: int, bands: Sequence[int]) -> int:
    """The most bytes that `pack_symbols` makes of (rows, bands[-1]) symbols, whatever they are."""
    return 1 + 4 * rows * bands[-1]


def pack_symbols(symbols: Symbols, bands: Sequence[int]) -> bytes:
    """(n, d) int32 to bytes; columns bands[i-1]..bands[i] share a table (bands ascend, the last is d)."""
    if symbols.size == 0:
        return b""
    width = next(w for w in RAW if symbols.min() >= -(1 << 8 * w - 1) and symbols.max() < 1 << 8 * w - 1)
    coded = _encode(symbols, bands)
    if len(coded) <= width * symbols.size:
        return coded
    return bytes([RAW[width]]) + symbols.astype(f"<i{width}").tobytes()


def unpack_symbols(packed: bytes, rows: int, bands: Sequence[int]) -> Symbols:
    """(rows, bands[-1]) int32 from `pack_symbols`; WireError, after work of at most that size, for malformed bytes."""
    try:
        return _decode(packed, rows, bands)
    except Malformed as error:
        raise WireError(f"symbols: {error}") from None


def max_bytes(count: int) -> int:
    """The most bytes that `pack_bytes` makes of `count` values, whatever they are."""
    return 1 + count


def pack_bytes(values: NDArray[np.uint8]) -> bytes:
    """(n,) uint8 to bytes: the shortest of constant, rANS of the values, rANS of their differences, and raw."""
    if values.size == 0:
        return b""
    first = values[0]
    if (values == first).all():
        return bytes([SAME, first])
    plain = bytes([PLAIN]) + values.tobytes()
    # Differences modulo 256, as signed bytes: both keep near what is near, also across 255 -> 0.
    relative = (values - first).view(np.int8)
    steps = np.diff(values, prepend=first).view(np.int8)
    coded = [
        bytes([form, first]) + _encode(numbers.astype(np.int32).reshape(-1, 1), [1])
        for form, numbers in ((DIRECTLY, relative), (DIFFERENCES, steps))
    ]
    return min(*coded, plain, key=len)


def unpack_bytes(packed: bytes, count: int) -> NDArray[np.uint8]:
    """(count,) uint8 from `pack_bytes`; WireError for malformed bytes."""
    try:
        return _decode_bytes(packed, count)
    except Malformed as error:
        raise WireError(f"bytes: {error}") from None


def _encode(symbols: Symbols, bands: Sequence[int]) -> bytes:
    tables, streams = [], []
    for start, stop in _columns(bands):
        numbers = np.ascontiguousarray(symbols[:, start:stop]).reshape(-1)
        classes, excess = _to_classes(numbers)
        table, low, weights = choose_table(np.bincount(classes + TOP, minlength=CLASSES))
        tables.append(table)
        if len(weights):
            streams.append((classes - np.int32(low), _model(weights), classes, excess))
    coder = _ans()
    for indices, model, classes, excess in reversed(streams):  # a stack: what is decoded first is pushed last
        for plane in reversed(range(4)):
            chosen = np.abs(classes[excess[0]]) >= DIRECT + plane
            if chosen.any():
                coder.encode_reverse((excess[1][chosen] >> 8 * plane & 255).astype(np.int32), _BYTE)
        coder.encode_reverse(indices, model)
    stream: bytes = coder.get_compressed().astype("<u4").tobytes()
    return b"".join(tables) + stream.rstrip(b"\0")


def _decode(packed: bytes, rows: int, bands: Sequence[int]) -> Symbols:
    shape = (rows, bands[-1])
    if len(packed) > max_symbol_bytes(rows, bands):
        raise Malformed(f"{len(packed)} bytes, at most {max_symbol_bytes(rows, bands)} are possible")
    if rows * bands[-1] == 0:
        if packed:
            raise Malformed(f"{len(packed)} bytes for no symbols")
        return np.zeros(shape, np.int32)
    for width, form in RAW.items():
        if packed[:1] == bytes([form]):
            if len(packed) != 1 + width * rows * bands[-1]:
                raise Malformed(f"{len(packed) - 1} raw bytes for {rows * bands[-1]} symbols of {width} bytes")
            return np.frombuffer(packed, f"<i{width}", offset=1).astype(np.int32).reshape(shape)
    tables, at = [], 0
    for _ in bands:
        low, weights, at = read_table(packed, at)
        tables.append((low, weights))
    if packed[at:] and packed[-1] == 0:
        raise Malformed("a zero byte ends the stream")
    padding = bytes(-(len(packed) - at) % 4)
    coder = _ans(np.frombuffer(packed[at:] + padding, "<u4").astype(np.uint32))
    symbols = np.zeros(shape, np.int32)
    for (low, weights), (start, stop) in zip(tables, _columns(bands), strict=True):
        if len(weights):
            classes = coder.decode(_model(weights), rows * (stop - start)) + np.int32(low)
            symbols[:, start:stop] = _from_classes(coder, classes).reshape(rows, -1)
    # rANS is a bijection between streams and symbols: what was encoded leaves exactly nothing.
    if not coder.is_empty():
        raise Malformed("bytes are left over after the last symbol")
    return symbols


def _decode_bytes(packed: bytes, count: int) -> NDArray[np.uint8]:
    if len(packed) > max_bytes(count):
        raise Malformed(f"{len(packed)} bytes, at most {max_bytes(count)} are possible")
    if count == 0:
        if packed:
            raise Malformed(f"{len(packed)} bytes for no values")
        return np.zeros(0, np.uint8)
    if len(packed) < 2:
        raise Malformed(f"{len(packed)} bytes for {count} values")
    form, first, rest = packed[0], np.uint8(packed[1]), packed[2:]
    if form == PLAIN:
        if len(packed) != 1 + count:
            raise Malformed(f"{len(packed) - 1} raw bytes for {count} values")
        return np.frombuffer(packed, np.uint8, offset=1).copy()
    if form == SAME:
        if rest:
            raise Malformed(f"{len(rest)} bytes are left over after a constant")
        return np.full(count, first)
    if form not in (DIRECTLY, DIFFERENCES):
        raise Malformed(f"unknown form {form}")
    numbers = _decode(rest, count, [1]).reshape(-1)
    if numbers.min() < -128 or numbers.max() > 127:
        raise Malformed("a difference beyond one byte")
    changes = numbers.astype(np.uint8)
    return first + (np.cumsum(changes, dtype=np.uint8) if form == DIFFERENCES else changes)


def _columns(bands: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip([0, *bands[:-1]], bands, strict=True))


def _escapes(numbers: Symbols) -> Integers:
    if numbers.min() > -DIRECT and numbers.max() < DIRECT:  # nearly always
        return np.zeros(0, np.int64)
    return np.flatnonzero((numbers <= -DIRECT) | (numbers >= DIRECT))


def _to_classes(numbers: Symbols) -> tuple[Symbols, tuple[Integers, Integers]]:
    """The class of each number, and where the escapes are with their magnitudes less DIRECT."""
    where = _escapes(numbers)
    large = numbers[where].astype(np.int64)  # |-2^31| has no int32
    excess = np.abs(large) - DIRECT
    if not len(where):
        return numbers, (where, excess)
    classes = numbers.copy()
    classes[where] = np.sign(large) * (DIRECT + sum((excess >> shift > 0).astype(np.int64) for shift in (8, 16, 24)))
    return classes, (where, excess)


def _from_classes(coder: constriction.stream.stack.AnsCoder, classes: Symbols) -> Symbols:
    where = _escapes(classes)
    escapes = classes[where]
    magnitude = np.full(len(where), DIRECT, np.int64)
    for plane in range(4):
        chosen = np.flatnonzero(np.abs(escapes) >= DIRECT + plane)
        if len(chosen):
            magnitude[chosen] += coder.decode(_BYTE, len(chosen)).astype(np.int64) << 8 * plane
    large = np.where(escapes < 0, -magnitude, magnitude)
    if len(large) and (large.max() >= 2**31 or large.min() < -(2**31)):
        raise Malformed("a symbol beyond 32 bits")
    classes[where] = large
    return classes


def _model(weights: Integers) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)
