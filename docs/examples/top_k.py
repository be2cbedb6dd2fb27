"""A quantizer of one's own, `top_k`: of each row the largest elements alone, as bf16 with their places.

`codec.<link>.options.share` of the elements cross, 4 bytes each; the receiver takes the others for zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.quantize import register_quantizer
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import UserError, WireError


@dataclass(frozen=True)
class TopK:
    dtype: torch.dtype  # of the activations: what `decode` must give back
    share: float
    name: str = "top_k"

    def kept(self, width: int) -> int:
        return max(1, round(self.share * width))

    def scale_bytes(self, tokens: int) -> int:
        return 0

    def symbol_bytes(self, tokens: int, width: int) -> int:
        return tokens * self.kept(width) * 4

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, d) -> no scales; per row the places as int16, then the values."""
        places = rows.abs().topk(self.kept(rows.shape[1]), dim=1).indices
        values = rows.gather(1, places).bfloat16()
        symbols = torch.cat([places.to(torch.int16).view(torch.uint8), values.view(torch.uint8)], dim=1)
        return torch.empty(0, dtype=torch.uint8), symbols.flatten()

    def decode(self, scales: Tensor, symbols: Tensor, tokens: int, width: int) -> Tensor:
        """The rows (tokens, d). Raises WireError for places outside a row: bytes from a peer prove nothing."""
        halves = symbols.clone().view(torch.int16).view(tokens, 2 * self.kept(width))
        places, values = halves.chunk(2, dim=1)
        places = places.long()
        if bool(((places < 0) | (places >= width)).any()):
            raise WireError(f"symbols: a place outside a row of {width}")
        rows = torch.zeros(tokens, width, dtype=self.dtype)
        return rows.scatter_(1, places, values.contiguous().view(torch.bfloat16).to(self.dtype))


def make(config: LinkCodecConfig, dtype: torch.dtype) -> TopK:
    share = config.options.get("share", 0.1)
    if not 0 < share <= 1:
        raise UserError(f"codec.<link>.options.share={share}: must be above 0 and at most 1")
    return TopK(dtype, share)


register_quantizer("top_k", make)
