"""Ideal bytes of quantized rows, at an equal mean error or with every row within a bound."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transforms import Bands, Transform

TAUS, KAPPAS = (0.05, 0.1, 0.15, 0.2), (0.3, 0.5, 0.7, 1.0)  # bounds over a row's norm; first step's noise over bound


def symbol_bytes(symbols: Tensor, bands: Bands) -> float:
    """Ideal bytes of one packet's integer symbols (n, w), tables included."""
    bits, start = 0.0, 0
    for stop in bands:
        numbers = symbols[:, start:stop].reshape(-1).long()
        counts = torch.bincount(numbers - numbers.min()).double()
        counts, total, start = counts[counts > 0], numbers.numel(), stop
        bits += 8 + (len(counts) - 1) / 2 * math.log2(total) - float((counts * (counts / total).log2()).sum())
    return bits / 8


def dead_zone(coefficients: Tensor, steps: Tensor, rounding: float) -> Tensor:
    scaled = coefficients / steps
    return (scaled.abs() + rounding).floor() * scaled.sign()


def uniform_step(error: Tensor, width: int) -> Tensor:
    """(n,) L2 errors -> (n, 1) steps whose uniform noise has that norm."""
    return (error * math.sqrt(12 / width)).unsqueeze(1)


def bits_at(
    error: float, packets: Sequence[Tensor], sizes: Sequence[Tensor], transform: Transform, rounding: float = 0.5
) -> float:
    """Bits an element of rows, packet by packet, when their mean error is `error` of their `sizes` (n,); no side."""
    width = packets[0].shape[1]
    coefficients = [transform.forward(rows) for rows in packets]

    def symbols(factor: float) -> list[tuple[Tensor, Tensor]]:
        steps = [uniform_step(factor * error * size, width) for size in sizes]
        return [(dead_zone(c, step, rounding), step) for c, step in zip(coefficients, steps, strict=True)]

    def mean_error(factor: float) -> float:
        made = zip(symbols(factor), packets, sizes, strict=True)
        return float(torch.cat([norm(transform.inverse(s * step) - x) / size for (s, step), x, size in made]).mean())

    factor = bisect(mean_error, error, 0.2, 20.0)
    total = sum(symbol_bytes(s, transform.bands) + len(s) for s, _ in symbols(factor))
    return 8 * total / sum(rows.numel() for rows in packets)


def code_rows(
    left: Tensor, size: Tensor, tau: float, kappa: float, transform: Transform, rounding: float
) -> tuple[Tensor, float]:
    """What `left` decodes to, within tau of `size` a row, and its bytes; steps shrink by quarter octaves until then."""
    if not len(left):
        return left, 0.0
    coefficients, steps = transform.forward(left), uniform_step(kappa * tau * size, left.shape[1])
    while True:
        symbols = dead_zone(coefficients, steps, rounding)
        decoded = transform.inverse(symbols * steps)
        over = norm(decoded - left) > tau * size
        if not bool(over.any()):
            return decoded, symbol_bytes(symbols, transform.bands) + len(left)
        steps = torch.where(over.unsqueeze(1), steps / 2**0.25, steps)


def bisect(rising: Callable[[float], float], goal: float, low: float, high: float) -> float:
    for _ in range(11):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rising(middle) > goal else (middle, high)
    return low


def norm(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1)
    return lengths


def groups(rows: Tensor, bits: int, transform: Transform) -> tuple[Tensor, Tensor]:
    """Symbols and what they decode to: groups of 32 scaled by their largest magnitude."""
    blocks = transform.forward(rows).view(len(rows), rows.shape[1] // 32, 32)
    scale = blocks.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 1)
    symbols = (blocks / scale).round()
    return symbols.view(rows.shape), transform.inverse((symbols * scale).view(rows.shape))
