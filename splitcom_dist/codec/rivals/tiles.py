"""TAH-Quant (arXiv 2506.01352 v2; heguangxin/TAH-Quant, compress/tah_modules.py): stateless tiles of a few bits.

Each token's row is cut into tiles of 64 channels. A tile whose largest element is at least twice the next swaps it to
the front and is rotated by a Hadamard matrix, which spreads it; then each tile has a zero point and a scale of its own,
and elements are rounded to nearest. The fifth of the tiles with the least entropy of |x| / sum |x| gets one bit less.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.rivals.matrices import pack_bits, unpack_bits
from splitcom_dist.errors import WireError

TILE = 64  # channels; the repository's forward tile
OUTLIER = 2.0  # a tile is rotated if its largest element is so many times the next
SHARE = 5  # one in so many tiles gets one bit less
HEAD_BYTES = 5  # a tile beside its symbols: bf16 zero point, bf16 scale, flags
ROTATED, LOW = 128, 64  # flags; the six bits below them are the pivot


@dataclass(frozen=True)
class Tiles:
    """A quantizer of rows: 64 x bits + 40 bits a tile, 64 fewer for the one in five that gets one bit less.

    Error of an element at most s/2, or 4 s where the tile is rotated, with s the tile's (max - min) / (2^bits - 1). The
    repository's 4.41 bits an element are 3.8 + 39/64; the 40th bit says which tiles have less, which it says by token.
    Ours: zero point and scale are bf16, not FP16, which overflows on activations and underflows on gradients; entropy
    ranks the tiles of one row, so that all rows have one size; the pivot is there whether or not it is needed; a last,
    shorter tile keeps all bits and is rotated if its size is a power of two; gradients take the same code at more bits
    (the repository: plain fixed point in tiles of 32, at 6 bits 6.5 an element against 6.43 here for d = 1600).
    """

    dtype: torch.dtype
    bits: int = 4
    name: str = "tiles"

    def scale_bytes(self, tokens: int) -> int:
        """None of their own: how many there are hangs on the width, so they stand before each row's symbols."""
        return 0

    def symbol_bytes(self, tokens: int, width: int) -> int:
        full, low, rest = _layout(width)
        heads = (full + (rest > 0)) * HEAD_BYTES
        return tokens * (heads + (TILE // 8) * (full * self.bits - low) + (rest * self.bits + 7) // 8)

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        tokens, width = rows.shape
        full, low, rest = _layout(width)
        rows = rows.float()
        tiles = rows[:, : full * TILE].reshape(tokens, full, TILE)
        least = torch.zeros(tokens, full, dtype=torch.bool).scatter_(1, _entropy(tiles).argsort(1)[:, :low], True)
        heads, symbols = _encode_tiles(tiles, (2 ** (self.bits - least.int())) - 1)
        heads[..., -1] |= least.to(torch.uint8) * LOW
        order = least.to(torch.uint8).argsort(dim=1, stable=True)
        symbols = symbols.gather(1, order.unsqueeze(2).expand(symbols.shape)).flatten(1)
        parts = [heads.flatten(1)]
        if rest:
            last = rows[:, full * TILE :].unsqueeze(1)
            last_head, last_symbols = _encode_tiles(last, torch.full((tokens, 1), 2**self.bits - 1))
            parts.append(last_head.flatten(1))
        parts.append(pack_bits(symbols[:, : (full - low) * TILE], self.bits))
        parts.append(pack_bits(symbols[:, (full - low) * TILE :], self.bits - 1))
        if rest:
            parts.append(pack_bits(last_symbols.flatten(1), self.bits))
        return torch.empty(0, dtype=torch.uint8), torch.cat(parts, dim=1).flatten()

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        """The reconstruction (tokens, d), the same on every machine. Raises WireError if flags are not an encoder's."""
        full, low, rest = _layout(width)
        sizes = [
            full * HEAD_BYTES,
            HEAD_BYTES * (rest > 0),
            (full - low) * self.bits * TILE // 8,
            low * (self.bits - 1) * TILE // 8,
            (rest * self.bits + 7) // 8,
        ]
        heads, last_head, high_part, low_part, last_part = symbols.view(tokens, sum(sizes)).split(sizes, dim=1)
        heads = heads.reshape(tokens, full, HEAD_BYTES)
        least = (heads[..., -1] & LOW) > 0
        if bool((least.sum(1) != low).any()):
            raise WireError(f"symbols: a row has not {low} tiles of {self.bits - 1} bits")
        order = least.to(torch.uint8).argsort(dim=1, stable=True).argsort(dim=1)
        levels = torch.cat(
            [
                unpack_bits(high_part, (full - low) * TILE, self.bits),
                unpack_bits(low_part, low * TILE, self.bits - 1),
            ],
            dim=1,
        ).view(tokens, full, TILE)
        parts = [_decode_tiles(heads, levels.gather(1, order.unsqueeze(2).expand(levels.shape))).flatten(1)]
        if rest:
            last = unpack_bits(last_part, rest, self.bits).unsqueeze(1)
            parts.append(_decode_tiles(last_head.reshape(tokens, 1, HEAD_BYTES), last).flatten(1))
        return torch.cat(parts, dim=1).to(self.dtype)


def _layout(width: int) -> tuple[int, int, int]:
    """Full tiles of a row, how many of them get one bit less, and channels of the last, shorter tile."""
    full, rest = divmod(width, TILE)
    return full, full // SHARE, rest


def _entropy(tiles: Tensor) -> Tensor:
    """Of the shares |x| / sum |x| of each tile (..., size) -> (...)."""
    shares = tiles.abs() / tiles.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy


def _encode_tiles(tiles: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """(n, t, size), largest symbol (n, t) -> heads (n, t, HEAD_BYTES) and symbols (n, t, size), uint8."""
    size = tiles.shape[-1]
    largest = tiles.abs().topk(min(2, size), dim=-1)
    rotated = (largest.values[..., 0] >= OUTLIER * largest.values[..., -1]) & (largest.values[..., 0] > 0)
    rotated &= size & (size - 1) == 0
    pivot = largest.indices[..., 0] * rotated
    spread = _swap(tiles, pivot) @ _hadamard(size) / math.sqrt(size)
    tiles = torch.where(rotated.unsqueeze(-1), spread, tiles)
    least = tiles.amin(-1)
    zero = (least - least.abs() * 2**-8).bfloat16()  # 2^-8 below, rounding to nearest cannot raise it above
    scale = ((tiles.amax(-1) - zero.float()) * ((1 + 2**-8) / top)).bfloat16()  # and likewise not below the exact one
    step = scale.float().clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
    symbols = ((tiles - zero.float().unsqueeze(-1)) / step).round_().nan_to_num_(0).clamp_min_(0)
    flags = pivot.to(torch.uint8) | rotated.to(torch.uint8) * ROTATED
    head = [part.unsqueeze(-1).view(torch.uint8) for part in (zero, scale, flags)]
    return torch.cat(head, dim=-1), symbols.minimum(top.unsqueeze(-1)).to(torch.uint8)


def _decode_tiles(heads: Tensor, symbols: Tensor) -> Tensor:
    """The inverse (n, t, size), float32. Sums are of integers, so exact in any order; all else is elementwise."""
    size = symbols.shape[-1]
    zero, scale = _bfloat16(heads[..., :2]), _bfloat16(heads[..., 2:4])
    flags = heads[..., -1]
    rotated, pivot = (flags & ROTATED) > 0, (flags & (LOW - 1)).long()
    if bool((rotated & (size & (size - 1) > 0)).any()) or bool((pivot >= size).any()):
        raise WireError(f"symbols: the flags of a tile of {size} channels are none")
    plain = symbols.float() * scale + zero
    spread = (symbols.float() @ _hadamard(size)) * (scale * (1 / math.sqrt(size)))
    spread[..., 0] += zero.squeeze(-1) * math.sqrt(size)  # a constant rotates to the first coordinate alone
    return torch.where(rotated.unsqueeze(-1), _swap(spread, pivot), plain)


def _bfloat16(raw: Tensor) -> Tensor:
    """Two bytes (..., 2) -> (..., 1), float32."""
    return raw.clone(memory_format=torch.contiguous_format).view(torch.bfloat16).float()


def _swap(tiles: Tensor, pivot: Tensor) -> Tensor:
    """Exchange the first element of each tile with that at its pivot."""
    pivot = pivot.unsqueeze(-1)
    swapped = tiles.clone().scatter_(-1, pivot, tiles[..., :1])
    swapped[..., :1] = tiles.gather(-1, pivot)
    return swapped


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix of the largest power of two up to `size`, padded by zeros to (size, size)."""
    matrix = torch.ones(1, 1)
    while 2 * len(matrix) <= size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return torch.nn.functional.pad(matrix, (0, size - len(matrix), 0, size - len(matrix)))
