"""Quantizers of one sample's matrix (tokens, d) as a whole: AQ-SGD's scale a channel, and SplitLite's low-rank factors.

They keep no state, and what they rebuild is the same on every machine bit for bit: symbols are integers, and every real
product and sum is taken elementwise in a fixed order, which a product of real matrices would not be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.config.schema import LinkCodecConfig

SCALE_BYTES = 2  # bf16


class MatrixQuantizer(Protocol):
    def scale_bytes(self, tokens: int, width: int) -> int: ...

    def symbol_bytes(self, tokens: int, width: int) -> int: ...

    def encode(self, matrix: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Finite float32 (tokens, d) -> uint8 scales, uint8 symbols; `generator` draws what is rounded at random."""
        ...

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        """The reconstruction (tokens, d), float32, in storage of its own."""
        ...


@dataclass(frozen=True)
class Channels:
    """AQ-SGD (arXiv 2206.01299; DS3Lab/AC-SGD, compress/fixpoint.py): `bits` an element, one abs-max scale a channel.

    The repository's grid: a step of M / 2^(bits-1), where M is the channel's abs-max over the sample's tokens, and
    levels from -2^(bits-1) to 2^(bits-1) - 1, so that a positive peak loses up to one step and all else half of one;
    it rounds to nearest, forward and backward. Ours: M is bf16 (rounded up) instead of FP16, which overflows.
    """

    bits: int

    def scale_bytes(self, tokens: int, width: int) -> int:
        return width * SCALE_BYTES

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return _packed_bytes(tokens * width, self.bits)

    def encode(self, matrix: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        half = 2 ** (self.bits - 1)
        peaks = _peaks(matrix, dim=0)
        levels = (matrix / _steps(peaks, half)).round_().clamp_(-half, half - 1)
        return peaks.view(torch.uint8), pack_bits((levels + half).to(torch.uint8).view(1, -1), self.bits).view(-1)

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        half = 2 ** (self.bits - 1)
        levels = unpack_bits(symbols.view(1, -1), tokens * width, self.bits).view(tokens, width)
        matrix: Tensor = (levels.float() - half) * _steps(_bfloat16(scales), half)
        return matrix


@dataclass(frozen=True)
class LowRank:
    """SplitLite (arXiv 2608.23018): a truncated SVD of `rank` directions, both factors stochastically quantized.

    rank x (tokens + d) x bits / 8 bytes, against FP16 a share of rank x (1/tokens + 1/d) x bits/16, as the paper has
    it. Ours: sqrt(s) is folded into both factors; each direction of each factor has an abs-max in bf16 (4 bytes a
    direction come on top); the rank is at most min(tokens, d), so short samples keep all their directions and the share
    is (1 + tokens/d) x bits/16. The grid is symmetric and reaches the abs-max: nothing is clipped, and the expectation
    over the draws is the truncated SVD itself.
    """

    bits: int
    rank: int

    def scale_bytes(self, tokens: int, width: int) -> int:
        return 2 * SCALE_BYTES * min(self.rank, tokens, width)

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return _packed_bytes(min(self.rank, tokens, width) * (tokens + width), self.bits)

    def encode(self, matrix: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens, width = matrix.shape
        top = 2 ** (self.bits - 1) - 1
        peaks, symbols = [], []
        for factor in truncated_svd(matrix, min(self.rank, tokens, width)):
            peaks.append(_peaks(factor, dim=1))
            scaled = factor / _steps(peaks[-1], top).unsqueeze(1)
            dither = torch.rand(scaled.shape, generator=generator)
            symbols.append(((scaled + dither).floor_().clamp_(-top, top) + top).to(torch.uint8))
        return torch.cat(peaks).view(torch.uint8), pack_bits(torch.cat(symbols, dim=1).view(1, -1), self.bits).view(-1)

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        rank, top = min(self.rank, tokens, width), 2 ** (self.bits - 1) - 1
        levels = unpack_bits(symbols.view(1, -1), rank * (tokens + width), self.bits).view(rank, tokens + width)
        steps = _steps(_bfloat16(scales), top).view(2, rank, 1)
        left, right = (levels.float() - top).split([tokens, width], dim=1)
        matrix = torch.zeros(tokens, width)
        for column, row in zip(left * steps[0], right * steps[1], strict=True):
            matrix += column.unsqueeze(1) * row
        return matrix


MATRIX_QUANTIZERS: dict[str, Callable[[LinkCodecConfig], MatrixQuantizer]] = {
    "channels": lambda config: Channels(config.bits),
    "low_rank": lambda config: LowRank(config.bits, config.low_rank),
}


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (rank, tokens), (rank, d) of the nearest matrix of that rank, sqrt of the singular value in both.

    By the eigenvectors of the smaller Gram matrix in float64: exact enough for few bits, and much faster than an SVD.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, left = truncated_svd(matrix.T, rank)
        return left, right
    exact = matrix.double()
    directions = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -rank:].T.flip(0)
    stretched = directions @ exact
    roots = torch.linalg.vector_norm(stretched, dim=1, keepdim=True).sqrt()
    return (directions * roots).float(), (stretched / roots.clamp_min(torch.finfo(torch.float64).tiny)).float()


def pack_bits(symbols: Tensor, bits: int) -> Tensor:
    """Symbols (n, k) uint8 below 2^bits -> (n, ceil(k x bits / 8)) uint8; lowest bit first, rows begin a byte."""
    planes = (symbols.unsqueeze(-1) >> torch.arange(bits, dtype=torch.uint8)) & 1
    return torch.from_numpy(np.packbits(planes.flatten(1).numpy(), axis=1, bitorder="little"))


def unpack_bits(packed: Tensor, count: int, bits: int) -> Tensor:
    """(n, ceil(count x bits / 8)) uint8 -> symbols (n, count) uint8."""
    planes = np.unpackbits(packed.numpy(), axis=1, count=count * bits, bitorder="little")
    shifted = torch.from_numpy(planes).view(len(packed), count, bits) << torch.arange(bits, dtype=torch.uint8)
    return shifted.sum(-1, dtype=torch.uint8)


def _packed_bytes(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def _peaks(values: Tensor, dim: int) -> Tensor:
    """Abs-max in bf16, rounded up: 2^-8 above the exact one, rounding to nearest cannot fall below it."""
    return (values.abs().amax(dim) * (1 + 2**-8)).clamp_max(torch.finfo(torch.bfloat16).max).bfloat16()


def _bfloat16(section: Tensor) -> Tensor:
    return section.clone().view(torch.bfloat16)  # a copy begins where its dtype can


def _steps(peaks: Tensor, levels: int) -> Tensor:
    return (peaks.float() / levels).clamp_min(torch.finfo(torch.float32).tiny)
