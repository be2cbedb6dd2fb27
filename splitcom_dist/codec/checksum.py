"""Checksums of payloads: on a device in integer arithmetic that gives the same on every device, on the host xxh3.

Multilinear hashing of 32-bit words (Lemire and Kaser 2014, arXiv 1202.4961): the upper half of sum(w_i x_i) mod 2^64,
with weights from splitmix64. Two payloads of one length that differ agree by chance in one of 2^32 cases. It guards
against what breaks, not against who forges. Bytes in host memory have the lower half of their XXH3 instead, which is
as fast as memory gives them.
"""

from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor
from torch.nn.functional import pad

from splitcom_dist.codec.ragged import sample_index
from splitcom_dist.devices import to_device, to_host

MASK = 2**32 - 1


def checksum(payload: Tensor) -> int:
    """Of a vector of uint8, below 2^32; 0 of none. One wait for its device."""
    if not len(payload):
        return 0
    words = _words(payload.view(1, -1)).squeeze(0)
    return int(to_host(_upper((words * weights(len(words), payload.device)).sum())))


def host_checksum(*parts: memoryview | bytes, before: int = 0) -> int:
    """Of bytes in host memory, one part after the other, below 2^32; `before` is the checksum of what stands in front
    of them."""
    hashed = xxhash.xxh3_64(seed=before)
    for part in parts:
        hashed.update(part)
    return hashed.intdigest() & MASK


def row_checksums(scales: Tensor, symbols: Tensor, lengths: Sequence[int]) -> list[int]:
    """Of each sample's scales and symbols (uint8, row after row), for samples of so many rows. One wait."""
    rows, device = sum(lengths), symbols.device
    if not rows:
        return [0 for _ in lengths]
    words = _words(torch.cat([scales.view(rows, -1), symbols.view(rows, -1)], dim=1))
    of_rows = _upper((words * weights(words.shape[1], device)).sum(dim=1))
    sizes = torch.tensor(lengths)
    index = sample_index(sizes)
    position = torch.arange(rows) - (sizes.cumsum(0) - sizes)[index]
    own = weights(int(sizes.max()), device).index_select(0, to_device(position, device))
    sums = torch.zeros(len(lengths), dtype=torch.int64, device=device)
    sums.index_add_(0, to_device(index, device), of_rows * own)
    found: list[int] = to_host(_upper(sums)).tolist()
    return found


def weights(count: int, device: torch.device) -> Tensor:
    """The first weights (n,), int64 and odd: splitmix64 of 1, 2, ..."""
    state: Tensor = torch.arange(1, count + 1, device=device) * _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return (state ^ _shifted(state, 31)) | 1


def _words(raw: Tensor) -> Tensor:
    """(rows, bytes) uint8 -> (rows, words) int64, each below 2^32, zeros behind the last byte."""
    padded = pad(raw, (0, -raw.shape[1] % 4)).contiguous()
    words: Tensor = padded.view(torch.int32).to(torch.int64) & MASK
    return words


def _upper(values: Tensor) -> Tensor:
    upper: Tensor = (values >> 32) & MASK
    return upper


def _shifted(values: Tensor, bits: int) -> Tensor:
    """A shift to the right that moves zeros in: of int64, torch's moves in the sign."""
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
