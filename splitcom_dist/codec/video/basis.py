"""A basis learnt from what a link has sent (Karhunen-Loève transform), told to the receiver once.

Activations of one layer, and their changes, lie mostly in few directions. Coefficients are ordered by their energy, so
bands of them share tables of the entropy coder and most of the late ones are zero.
"""

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.errors import WireError

LARGEST = 127  # of an entry
SMALLEST_EXPONENT, LARGEST_EXPONENT = -14, -6  # of a direction's scale: sums stay within the 53 bits of float64
SHRINK = 1e-3  # of the mean variance, added to every direction: some have not been seen yet


def bands_of(width: int) -> list[int]:
    """Ends of the bands of coefficients that share a table: 1, 3, 7, 15, ... and the width."""
    ends = [2**power - 1 for power in range(1, width.bit_length())]
    return [end for end in ends if end < width] + [width]


def basis_bytes(width: int) -> int:
    return width * (width + 1)


class Basis:
    """Directions (d, d) as int8 entries, each with a power of two as its scale.

    Rows are rebuilt as sums of products of integers, exact in float64 in whichever order, so both ends hold the same
    bits on any machine. The sender's coefficients come from the inverse of the rounded matrix: rounding its entries
    costs bits, not accuracy.
    """

    def __init__(self, entries: Tensor, exponents: Tensor) -> None:
        """`entries` (d, d) int8, a row a direction; `exponents` (d,) int8."""
        self._entries, self._exponents = entries, exponents
        self._directions = torch.ldexp(entries.double(), exponents.long().unsqueeze(1))
        self.bands = bands_of(len(entries))

    @classmethod
    def learn(cls, rows: Tensor) -> "Basis":
        """The principal directions of rows (n, d) float32, about zero."""
        scaled = rows.double() / torch.linalg.vector_norm(rows.double(), dim=1, keepdim=True).clamp_min(1e-30)
        covariance = scaled.T @ scaled
        covariance += torch.eye(len(covariance)) * covariance.trace() * (SHRINK / len(covariance))
        directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).T  # most energy first
        exponents = torch.ceil(torch.log2(directions.abs().amax(dim=1) / LARGEST))
        entries = (directions / torch.exp2(exponents).unsqueeze(1)).round().clamp(-LARGEST, LARGEST)
        return cls(entries.to(torch.int8), exponents.to(torch.int8))

    @classmethod
    def unpack(cls, packed: bytes, width: int) -> "Basis":
        """Raises WireError if it is none."""
        if len(packed) != basis_bytes(width):
            raise WireError(f"side: {len(packed)} bytes are no basis of {width} directions")
        entries = torch.from_numpy(np.frombuffer(packed, np.int8, width * width).copy()).view(width, width)
        exponents = torch.from_numpy(np.frombuffer(packed, np.int8, width, offset=width * width).copy())
        if bool((exponents < SMALLEST_EXPONENT).any()) or bool((exponents > LARGEST_EXPONENT).any()):
            raise WireError("side: a direction of the basis has an impossible scale")
        return cls(entries, exponents)

    def pack(self) -> bytes:
        return self._entries.numpy().tobytes() + self._exponents.numpy().tobytes()

    def prepare(self) -> None:
        """Make what only a sender needs."""
        self._inverse = torch.linalg.inv(self._directions).float()

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) -> coefficients (n, d), float32; after `prepare`."""
        coefficients: Tensor = rows @ self._inverse
        return coefficients

    def inverse(self, symbols: Tensor, steps: Tensor) -> Tensor:
        """Integer symbols (n, d) of steps (n,) -> rows (n, d), float32, the same on every machine."""
        rows: Tensor = (symbols.double() @ self._directions).float() * steps.unsqueeze(1)
        return rows
