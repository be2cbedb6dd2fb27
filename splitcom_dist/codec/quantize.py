"""Token rows to bytes and back. A quantizer keeps no state; both ends derive the same reconstruction from its bytes.

Rows are (tokens, d). `encode` gives the packet sections `scales` and `symbols`; sizes depend on (tokens, d) alone, so
a receiver knows them before it reads a byte.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from splitcom_dist.codec.fused import fused
from splitcom_dist.codec.rivals.tiles import Tiles
from splitcom_dist.config.ranges import add_choice
from splitcom_dist.config.schema import LinkCodecConfig


class Quantizer(Protocol):
    @property
    def name(self) -> str: ...

    def scale_bytes(self, tokens: int) -> int: ...

    def symbol_bytes(self, tokens: int, width: int) -> int: ...

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, d) -> uint8 scales, uint8 symbols, row after row."""
        ...

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        """The reconstruction (tokens, d) in the dtype of the activation, in storage of its own."""
        ...


@dataclass(frozen=True)
class Plain:
    """The rows as they are, in their own dtype: SplitLoRA's wire. No error."""

    dtype: torch.dtype
    name: str = "none"

    def scale_bytes(self, tokens: int) -> int:
        return 0

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return tokens * width * self.dtype.itemsize

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _no_scales(rows), _bytes(rows.to(self.dtype))

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        return symbols.clone().view(self.dtype).view(tokens, width)


@dataclass(frozen=True)
class Half:
    """IEEE half precision. Error at most 2^-11 |x| + 2^-25 up to 65504; larger values saturate, not overflow."""

    dtype: torch.dtype
    name: str = "fp16"

    def scale_bytes(self, tokens: int) -> int:
        return 0

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return tokens * width * 2

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return _no_scales(rows), _bytes(rows.clamp(-65504.0, 65504.0).half())

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        # A copy also when dtypes agree: symbols lie in a receive buffer that the next packet overwrites.
        return symbols.clone().view(torch.float16).view(tokens, width).to(self.dtype)


@dataclass(frozen=True)
class Int8:
    """One signed byte an element, one bf16 scale s a token (abs-max / 127, rounded up).

    Error at most s/2 <= absmax/127 * (1/2 + 2^-7), and the rounding of the output dtype.
    """

    dtype: torch.dtype
    name: str = "int8"
    fused: bool = False  # compile what is computed; the same bytes

    def scale_bytes(self, tokens: int) -> int:
        return tokens * 2

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return tokens * width

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        quantize = fused(absmax_int8) if self.fused else absmax_int8
        scales, symbols = quantize(rows)
        return _bytes(scales), _bytes(symbols)

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        dequantize = fused(scaled_int8) if self.fused else scaled_int8
        return dequantize(scales.clone().view(torch.bfloat16), symbols.view(torch.int8).view(tokens, width), self.dtype)


def absmax_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(T, d) -> scales (T,) bfloat16, symbols (T, d) int8."""
    rows = rows.float()
    # bf16 keeps 8 bits: 2^-8 above the exact scale, rounding to nearest cannot fall below it and clip the peak.
    scales = (rows.abs().amax(dim=1) * ((1 + 2**-8) / 127)).bfloat16()
    step = scales.float().clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)
    return scales, (rows / step).round_().clamp_(-127, 127).to(torch.int8)


def scaled_int8(scales: Tensor, symbols: Tensor, dtype: torch.dtype) -> Tensor:
    """(T,), (T, d) -> (T, d)."""
    return (symbols.float() * scales.float().unsqueeze(1)).to(dtype)


QUANTIZERS: dict[str, Callable[[LinkCodecConfig, torch.dtype], Quantizer]] = {
    "none": lambda _, dtype: Plain(dtype),
    "fp16": lambda _, dtype: Half(dtype),
    "int8": lambda _, dtype: Int8(dtype),
    "tiles": lambda config, dtype: Tiles(dtype, config.bits),
}


def register_quantizer(name: str, make: Callable[[LinkCodecConfig, torch.dtype], Quantizer]) -> None:
    """Let `codec.<link>.quantizer` be `name`: `make` gets the link's configuration and the activations' dtype.

    Its settings are `codec.<link>.options`. It works in host memory, behind gates always, once and cosine. Raises
    UserError if there is a quantizer of that name.
    """
    add_choice(".quantizer", name)
    QUANTIZERS[name] = make


def quantizer_of(config: LinkCodecConfig, dtype: torch.dtype, compiled: bool = False) -> Quantizer:
    """The configured one, for activations of `dtype`, `compiled` where that is of use.

    KeyError for a quantizer of whole matrices (matrices.py).
    """
    quantizer = QUANTIZERS[config.quantizer](config, dtype)
    return replace(quantizer, fused=True) if compiled and isinstance(quantizer, Int8) else quantizer


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _no_scales(rows: Tensor) -> Tensor:
    return rows.new_empty(0, dtype=torch.uint8)
