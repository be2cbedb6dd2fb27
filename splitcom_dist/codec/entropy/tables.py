"""Tables of the entropy coder: how often each class of symbol comes, in few bytes and from integers alone."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

DIRECT = 64  # magnitudes below have a class of their own; class +-(63 + k) is an escape with k = 1..4 more bytes
TOP = DIRECT + 3
CLASSES = 2 * TOP + 1
# The first byte of a band's table: 0 = all zero, 1.. = a shape of `_shapes`, or this.
EXPLICIT = 255
FRACTION = 16  # bits after the point of a logarithm


class Malformed(Exception):
    """What is wrong with packed bytes; the caller names the field."""


def choose_table(counts: Integers) -> tuple[bytes, int, Integers]:
    """The table that makes table and stream shortest: its bytes, its lowest class and its weights."""
    present = np.flatnonzero(counts)
    if len(present) == 1 and present[0] == TOP:
        return b"\0", 0, np.zeros(0, np.int64)
    table, low, weights = _explicit(counts, int(present[0]), int(present[-1]))
    span = counts[present[0] : present[-1] + 1]
    bits = int(span @ _cost(weights[: len(span)], int(weights.sum()))) + (len(table) - 1 << 3 + FRACTION)
    shapes, costs = _shapes()
    shape_bits = costs[:, present[0] : present[-1] + 1] @ span.astype(np.float64)  # integers below 2^53: exact
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


def read_table(packed: bytes, at: int) -> tuple[int, Integers, int]:
    """(lowest class, weights, end): no weights where the band is all zero."""
    try:
        kind = packed[at]
        if kind == 0:
            return 0, np.zeros(0, np.int64), at + 1
        if kind != EXPLICIT:
            shapes, _ = _shapes()
            if kind > len(shapes):
                raise Malformed(f"unknown table {kind}")
            return -TOP, shapes[kind - 1], at + 1
        first, length = packed[at + 1], packed[at + 2]
        codes: list[int] = []
        at += 3
        while len(codes) < length:
            run = 0 if packed[at] else packed[at + 1]
            codes += [0] * run if run else [packed[at]]
            at += 2 if run else 1
    except IndexError:
        raise Malformed("the table is cut short") from None
    if first + length > CLASSES or len(codes) != length or not any(codes):
        raise Malformed(f"a table of {len(codes)} classes from {first}")
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
def _shapes() -> tuple[Integers, NDArray[np.float64]]:
    """(tables, CLASSES) weights and their cost a symbol, for packets too small for a table of their own.

    Two-sided geometric (ratio q from class to class, a Laplacian's) and discrete Gaussian (ratio q^(2k+1)).
    """
    magnitudes = [
        _magnitudes(ladder, gaussian)
        for gaussian, steps in ((False, 64), (True, 84))
        for ladder in ((4 + step % 4 << step // 4) for step in range(steps))
    ]
    shapes = np.array([[*half[:0:-1], *half] for half in magnitudes], np.int64)
    return shapes, np.array([_cost(shape, int(shape.sum())) for shape in shapes], np.float64)


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
