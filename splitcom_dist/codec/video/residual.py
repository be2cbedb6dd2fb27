"""Residual rows to symbols within an error bound: transform, one step a row, dead-zone uniform quantizer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.video.steps import largest_code, steps_of
from splitcom_dist.codec.video.transform import LARGEST_SYMBOL, Transform

UNIFORM_NOISE = 12**0.5  # step over the root mean square of the error that it makes, while values exceed the step
RETRIES = 12  # of a step a quarter octave smaller, for the rows whose error came out above the bound


@dataclass(frozen=True)
class Coded:
    """Of n rows: step codes (n,) uint8, integer symbols (n, d) int32, what they decode to (n, d) float32, and which of
    them are within their bound (n,) bool."""

    codes: Tensor
    symbols: Tensor
    decoded: Tensor
    within: Tensor


def quantize(transform: Transform, residual: Tensor, aim: Tensor, bound: Tensor, rounding: float) -> Coded:
    """Residual rows (n, d) float32; `aim` (n,) is the error (L2 norm) that a row's step is chosen for, `bound` (n,) the
    largest allowed. A value of less than 1 - `rounding` steps becomes zero: at 0.5 this is rounding to nearest.

    Where a row misses its bound, its step is made smaller until it does not. Rows decode alike on every machine.
    """
    coefficients = transform.forward(residual)
    steps = aim * (UNIFORM_NOISE / residual.shape[1] ** 0.5)
    codes = largest_code(steps)
    symbols = _dead_zone(coefficients, codes, rounding)
    decoded = transform.inverse(symbols, steps_of(codes))
    within = _error(residual, decoded) <= bound
    for _ in range(RETRIES):
        if bool(within.all()):
            break
        missed = ~within
        codes[missed] = (codes[missed].int() - 1).clamp_(min=0).to(torch.uint8)
        symbols[missed] = _dead_zone(coefficients[missed], codes[missed], rounding)
        decoded[missed] = transform.inverse(symbols[missed], steps_of(codes[missed]))
        within[missed] = _error(residual[missed], decoded[missed]) <= bound[missed]
    return Coded(codes, symbols, decoded, within)


def _dead_zone(coefficients: Tensor, codes: Tensor, rounding: float) -> Tensor:
    scaled = coefficients / steps_of(codes).unsqueeze(1)
    symbols = (scaled.abs() + rounding).floor_().clamp_(max=LARGEST_SYMBOL) * scaled.sign()
    return symbols.to(torch.int32)


def _error(rows: Tensor, decoded: Tensor) -> Tensor:
    error: Tensor = torch.linalg.vector_norm(rows - decoded, dim=1)
    return error
