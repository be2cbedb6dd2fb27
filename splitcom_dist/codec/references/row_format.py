"""How a row is stored, and the hash by which two stores are compared."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitcom_dist.codec.quantize import Int8


class RowFormat:
    """Rows (U, d) float32 to the words (U, w) int64 that are stored, and their hashes; deterministic arithmetic alone.

    Element after element, little-endian, for int8 the bf16 scale after them, zeros up to a whole word.
    """

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.width, self.dtype = width, dtype
        self.row_bytes = width * dtype.itemsize + (2 if dtype == torch.int8 else 0)
        self.words = -(-self.row_bytes // 8)
        self._factors = splitmix64(np.arange(2 * self.words, dtype=np.uint64)) | np.uint64(1)

    def pack(self, rows: Tensor) -> Tensor:
        packed = torch.zeros(len(rows), self.words * 8, dtype=torch.uint8)
        if self.dtype == torch.int8:
            scales, symbols = Int8(torch.float32).encode(rows)
            packed[:, : self.width] = symbols.view(len(rows), self.width)
            packed[:, self.width : self.row_bytes] = scales.view(len(rows), 2)
        else:
            packed[:, : self.row_bytes] = rows.to(self.dtype).contiguous().view(torch.uint8)
        return packed.view(torch.int64)

    def unpack(self, words: Tensor) -> Tensor:
        packed = words.view(torch.uint8)[:, : self.row_bytes]
        if self.dtype != torch.int8:
            return packed.contiguous().view(self.dtype).float()
        symbols, scales = packed[:, : self.width].contiguous(), packed[:, self.width :].contiguous()
        return Int8(torch.float32).decode(scales.view(-1), symbols, len(words), self.width)

    def hashes(self, keys: Tensor, words: Tensor) -> Tensor:
        """(U,), 1 to 2^63 - 1: multilinear in 32-bit halves (Lemire and Kaser 2014, section 2), then splitmix64.

        Factors are odd, so any single changed half changes the sum; halves, because the top bits of two whole words
        would cancel mod 2^64 whatever the factors.
        """
        # numpy's product of unsigned integers: exact mod 2^64, no temporary of eight bytes an element
        sums = words.contiguous().numpy().view(np.uint32) @ self._factors
        mixed = splitmix64(sums ^ splitmix64(keys.numpy().astype(np.uint64)))
        return torch.from_numpy(np.maximum(mixed >> np.uint64(1), np.uint64(1)).view(np.int64))


def splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014, figure 14): a bijection whose bits all depend on all."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
