"""Small signed symbols and side-information bytes to few bytes and back, by rANS with a table sent in the packet.

A packet of symbols is one table for each band of columns, then one rANS stream (Duda et al. 2015, arXiv:1311.2540;
the coder is constriction's). Symbols below `DIRECT` in magnitude have a class each; a larger one is an escape class,
which says its sign and how many bytes of magnitude follow. Whatever would grow is sent raw, so `max_symbol_bytes` and
`max_bytes` hold for any input.

Both ends build tables from integers alone. constriction turns weights into probabilities of 24 bits by one float64
division, and by products and sums that IEEE 754 fixes to the last bit: the same on every machine.
"""

from collections.abc import Sequence
from functools import cache

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from splitcom_dist.errors import WireError

Symbols = NDArray[np.int32]
Integers = NDArray[np.int64]

DIRECT = 64  # magnitudes below have a class of their own; class +-(63 + k) is an escape with k = 1..4 more bytes
TOP = DIRECT + 3
CLASSES = 2 * TOP + 1

# The first byte of a band's table: 0 = all zero, 1.. = a shape of `_shapes`, or one of these.
EXPLICIT = 255
RAW = {1: 251, 2: 252, 4: 254}  # only the first byte of a packet: int8, int16 or int32 symbols follow, little endian
SAME, DIRECTLY, DIFFERENCES, PLAIN = range(4)  # the first byte of packed bytes

FRACTION = 16  # bits after the point of a logarithm

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
    except _Malformed as error:
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
    except _Malformed as error:
        raise WireError(f"bytes: {error}") from None


class _Malformed(Exception):
    """What is wrong with packed bytes; the caller names the field."""


def _encode(symbols: Symbols, bands: Sequence[int]) -> bytes:
    tables, streams = [], []
    for start, stop in _columns(bands):
        numbers = np.ascontiguousarray(symbols[:, start:stop]).reshape(-1)
        classes, excess = _to_classes(numbers)
        table, low, weights = _choose_table(np.bincount(classes + TOP, minlength=CLASSES))
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
        raise _Malformed(f"{len(packed)} bytes, at most {max_symbol_bytes(rows, bands)} are possible")
    if rows * bands[-1] == 0:
        if packed:
            raise _Malformed(f"{len(packed)} bytes for no symbols")
        return np.zeros(shape, np.int32)
    for width, form in RAW.items():
        if packed[:1] == bytes([form]):
            if len(packed) != 1 + width * rows * bands[-1]:
                raise _Malformed(f"{len(packed) - 1} raw bytes for {rows * bands[-1]} symbols of {width} bytes")
            return np.frombuffer(packed, f"<i{width}", offset=1).astype(np.int32).reshape(shape)
    tables, at = [], 0
    for _ in bands:
        low, weights, at = _read_table(packed, at)
        tables.append((low, weights))
    if packed[at:] and packed[-1] == 0:
        raise _Malformed("a zero byte ends the stream")
    padding = bytes(-(len(packed) - at) % 4)
    coder = _ans(np.frombuffer(packed[at:] + padding, "<u4").astype(np.uint32))
    symbols = np.zeros(shape, np.int32)
    for (low, weights), (start, stop) in zip(tables, _columns(bands), strict=True):
        if len(weights):
            classes = coder.decode(_model(weights), rows * (stop - start)) + np.int32(low)
            symbols[:, start:stop] = _from_classes(coder, classes).reshape(rows, -1)
    # rANS is a bijection between streams and symbols: what was encoded leaves exactly nothing.
    if not coder.is_empty():
        raise _Malformed("bytes are left over after the last symbol")
    return symbols


def _decode_bytes(packed: bytes, count: int) -> NDArray[np.uint8]:
    if len(packed) > max_bytes(count):
        raise _Malformed(f"{len(packed)} bytes, at most {max_bytes(count)} are possible")
    if count == 0:
        if packed:
            raise _Malformed(f"{len(packed)} bytes for no values")
        return np.zeros(0, np.uint8)
    if len(packed) < 2:
        raise _Malformed(f"{len(packed)} bytes for {count} values")
    form, first, rest = packed[0], np.uint8(packed[1]), packed[2:]
    if form == PLAIN:
        if len(packed) != 1 + count:
            raise _Malformed(f"{len(packed) - 1} raw bytes for {count} values")
        return np.frombuffer(packed, np.uint8, offset=1).copy()
    if form == SAME:
        if rest:
            raise _Malformed(f"{len(rest)} bytes are left over after a constant")
        return np.full(count, first)
    if form not in (DIRECTLY, DIFFERENCES):
        raise _Malformed(f"unknown form {form}")
    numbers = _decode(rest, count, [1]).reshape(-1)
    if numbers.min() < -128 or numbers.max() > 127:
        raise _Malformed("a difference beyond one byte")
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
        raise _Malformed("a symbol beyond 32 bits")
    classes[where] = large
    return classes


def _model(weights: Integers) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)


def _choose_table(counts: Integers) -> tuple[bytes, int, Integers]:
    """The table that makes table and stream shortest: its bytes, its lowest class and its weights."""
    present = np.flatnonzero(counts)
    if len(present) == 1 and present[0] == TOP:
        return b"\0", 0, np.zeros(0, np.int64)
    table, low, weights = _explicit(counts, int(present[0]), int(present[-1]))
    span = counts[present[0] : present[-1] + 1]
    bits = int(span @ _cost(weights[: len(span)], int(weights.sum()))) + (len(table) - 1 << 3 + FRACTION)
    shapes, costs = _shapes()
    shape_bits = costs @ counts
    best = int(shape_bits.argmin())
    # A shape spans every class, so decoding searches longer (measured: 45 against 70 Msym/s): it must save 0.2 %.
    if shape_bits[best] + (bits >> 9) <= bits:
        return bytes([1 + best]), -TOP, shapes[best]
    return table, low, weights


def _explicit(counts: Integers, first: int, last: int) -> tuple[bytes, int, Integers]:
    """Lowest class, number of classes, a byte a class: its count to four leading bits; 0, k is a run of k zeros."""
    span = counts[first : last + 1].tolist()
    codes = [_shorten(count) for count in span]
    table, at = bytearray([EXPLICIT, first, len(codes)]), 0
    while at < len(codes):
        run = next((i for i, code in enumerate(codes[at:]) if code), 0)
        table += bytes([0, run]) if run else bytes([codes[at]])
        at += run or 1
    return bytes(table), first - TOP, _weights(codes)


def _read_table(packed: bytes, at: int) -> tuple[int, Integers, int]:
    """(lowest class, weights, end): no weights where the band is all zero."""
    try:
        kind = packed[at]
        if kind == 0:
            return 0, np.zeros(0, np.int64), at + 1
        if kind != EXPLICIT:
            shapes, _ = _shapes()
            if kind > len(shapes):
                raise _Malformed(f"unknown table {kind}")
            return -TOP, shapes[kind - 1], at + 1
        first, length = packed[at + 1], packed[at + 2]
        codes: list[int] = []
        at += 3
        while len(codes) < length:
            run = 0 if packed[at] else packed[at + 1]
            codes += [0] * run if run else [packed[at]]
            at += 2 if run else 1
    except IndexError:
        raise _Malformed("the table is cut short") from None
    if first + length > CLASSES or len(codes) != length or not any(codes):
        raise _Malformed(f"a table of {len(codes)} classes from {first}")
    return first - TOP, _weights(codes), at


def _shorten(count: int) -> int:
    shift = max(count.bit_length() - 4, 0)
    return 8 * shift + (count >> shift)  # below 16 as it is; rounding up would cost a carry and gains 0.001 bit


def _lengthen(code: int) -> int:
    shift = max(code // 8 - 1, 0)
    return (2 * (code - 8 * shift) + 1 << shift) // 2  # the middle of what shortens to it


def _weights(codes: list[int]) -> Integers:
    return np.array([*map(_lengthen, codes), *([0] if len(codes) == 1 else [])], np.int64)  # a model needs two


@cache
def _shapes() -> tuple[Integers, Integers]:
    """(tables, CLASSES) weights and their cost a symbol, for packets too small for a table of their own.

    Two-sided geometric (ratio q from class to class, a Laplacian's) and discrete Gaussian (ratio q^(2k+1)).
    """
    magnitudes = [
        _magnitudes(ladder, gaussian)
        for gaussian, steps in ((False, 64), (True, 84))
        for ladder in ((4 + step % 4 << step // 4) for step in range(steps))
    ]
    shapes = np.array([[*half[:0:-1], *half] for half in magnitudes], np.int64)
    return shapes, np.array([_cost(shape, int(shape.sum())) for shape in shapes])


def _magnitudes(ladder: int, gaussian: bool) -> list[int]:
    one = 1 << 32
    q = one * ladder // (ladder + (1 << 12))
    weights, weight, ratio = [], one, q
    for _ in range(TOP + 1):
        weights.append(1 + (weight >> 12))  # never 0: any shape can carry an escape
        weight = weight * ratio >> 32
        ratio = ratio * q * q >> 64 if gaussian else ratio
    return weights


def _cost(weights: Integers, total: int) -> Integers:
    """-log2(weight / total) in 2^-FRACTION bit, by squaring in integers: libraries differ in the last bit of log2."""
    return int(_log2(np.array([total]))[0]) - _log2(np.maximum(weights, 1))


def _log2(numbers: Integers) -> Integers:
    exponent = np.array([int(number).bit_length() - 1 for number in numbers], np.int64)
    mantissa = np.where(exponent > 30, numbers >> np.maximum(exponent - 30, 0), numbers << np.maximum(30 - exponent, 0))
    result = exponent
    for _ in range(FRACTION):
        mantissa = mantissa * mantissa >> 30
        carry = mantissa >> 31
        result, mantissa = 2 * result + carry, mantissa >> carry
    return result
