"""Transforms of rows whose inverse is exact on integers: a fixed rotation here, a learnt basis in basis.py.

The rotation spreads outlier channels over their block. After it, coefficients of one row are near to Gaussian whatever
single channels do (QuaRot, arXiv 2404.00456), so that one step a row serves them all.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

LARGEST_BLOCK = 64
LARGEST_SYMBOL = 2**15  # a block's sum of so large symbols is still an integer that float32 holds exactly


class Transform(Protocol):
    @property
    def bands(self) -> Sequence[int]:
        """Ends of the bands of coefficients that are alike in spread; the last is d."""
        ...

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> coefficients (n, d), float32."""
        ...

    def inverse(self, symbols: Tensor, steps: Tensor) -> Tensor:
        """Integer symbols (n, d) of steps (n,) -> rows (n, d), float32, the same on every machine."""
        ...


class Rotation:
    """Random signs, then a Walsh-Hadamard transform of blocks; orthonormal, so relative errors stay what they are.

    Both ends of a link rebuild rows from integer symbols: sums of integers below 2^24 are exact in float32 in whichever
    order they are taken, and what follows is elementwise. So two machines hold the same reconstruction bit for bit,
    which a product of real matrices would not give them.
    """

    def __init__(self, width: int) -> None:
        self.block = math.gcd(width, LARGEST_BLOCK)
        self.blocks = width // self.block
        self.bands = [width]
        generator = torch.Generator().manual_seed(0)
        self._signs = torch.randint(0, 2, (width,), generator=generator).float() * 2 - 1
        matrix = torch.ones(1, 1)
        while len(matrix) < self.block:
            matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
        self._matrix = matrix
        self._scale = torch.tensor(1 / math.sqrt(self.block), dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        blocks = (rows.float() * self._signs).view(len(rows), self.blocks, self.block)
        return (blocks @ self._matrix).view(rows.shape) * self._scale

    def inverse(self, symbols: Tensor, steps: Tensor) -> Tensor:
        blocks = symbols.float().view(len(symbols), self.blocks, self.block) @ self._matrix
        return blocks.view(symbols.shape) * (steps * self._scale).unsqueeze(1) * self._signs
