"""Our codec for gradients: some tokens, a few bits an element, and unbiased in both.

Gradients bear less than activations, and an error that is fed back to another sample does not help (METHODS); what is
right in expectation does: token importance sampling with inverse-probability weights, then stochastic rounding.

Nothing is shared between samples here. A gradient at a position depends on what follows it, so two samples with the
same prefix have different gradients there: neither `down_gradient` nor `up_gradient` can use prefix keys.
"""

import torch
from torch import Tensor

from splitcom_dist.codec.entropy import max_bytes, pack_bytes, unpack_bytes
from splitcom_dist.codec.frames import Frames, Limits
from splitcom_dist.codec.groups import max_row_bytes, pack_rows, unpack_rows
from splitcom_dist.codec.sections import as_bytes, as_section
from splitcom_dist.codec.steps import LARGEST_STEP, smallest_code, steps_of
from splitcom_dist.codec.store import ReferenceStore
from splitcom_dist.codec.transform import Rotation
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config import LinkCodecConfig
from splitcom_dist.errors import WireError

OMITTED, KEPT, COLD = range(3)  # codes of the mode map


class SampledEnd:
    """What both ends share. There is nothing to remember: the store stays empty."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype) -> None:
        self.config = config
        self.width = width
        self.dtype = dtype
        self.rotation = Rotation(width)
        self.store = ReferenceStore()


class SampledEncoder(SampledEnd):
    """The sending end; its draws come from `seed` alone, so that a run can be repeated."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__(config, width, dtype)
        self.theta = config.theta
        self._generator = torch.Generator().manual_seed(seed)

    def needs_values(self, visit: Visit) -> bool:
        return True

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames whose decoded rows have `values` as their expectation."""
        assert values is not None
        rows = values.float()
        size = torch.linalg.vector_norm(rows, dim=1)
        finite = size < LARGEST_STEP  # False for NaN
        size = size.masked_fill(~finite, 0)
        probability = keep_probabilities(size, self.config.keep)
        kept = torch.rand(len(rows), generator=self._generator) < probability
        coefficients = self.rotation.forward(rows[kept] / probability[kept].unsqueeze(1))
        largest = 2 ** (self.config.bits - 1) - 1
        codes = smallest_code(coefficients.abs().amax(dim=1) / largest)
        scaled = coefficients / steps_of(codes).unsqueeze(1)
        dither = torch.rand(scaled.shape, generator=self._generator)
        symbols = (scaled + dither).floor_().clamp_(-largest, largest).to(torch.int32)
        modes = kept.to(torch.uint8) * KEPT
        modes[~finite] = COLD
        sections = {
            "modes": as_section(pack_bytes(modes.numpy())),
            "scales": as_section(pack_bytes(codes.numpy())),
            "symbols": torch.cat(
                [
                    rows[~finite].bfloat16().view(torch.uint8).flatten(),
                    as_section(pack_rows(symbols.numpy())),
                ]
            ),
        }
        cold, sent = int((~finite).sum()), int(kept.sum())
        return Frames(sections, intra=sent, skipped=len(rows) - sent - cold, cold=cold)


class SampledDecoder(SampledEnd):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        symbols = max_row_bytes(tokens, self.width) + 2 * self.width * tokens
        return Limits(modes=max_bytes(tokens), scales=max_bytes(tokens), symbols=symbols)

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor:
        """Packet sections -> rows (T, d), zeros where nothing was sent. Raises WireError."""
        modes = torch.from_numpy(unpack_bytes(as_bytes(sections, "modes"), visit.tokens).copy())
        if bool((modes > COLD).any()):
            raise WireError(f"modes: {int(modes.max())} is no kind of frame")
        kept, cold = modes == KEPT, modes == COLD
        packed = as_bytes(sections, "symbols")
        raw = 2 * self.width * int(cold.sum())
        if len(packed) < raw:
            raise WireError(f"symbols: {len(packed)} bytes cannot hold {raw} of raw positions")
        codes = torch.from_numpy(unpack_bytes(as_bytes(sections, "scales"), int(kept.sum())).copy())
        symbols = torch.from_numpy(unpack_rows(packed[raw:], len(codes), self.width))
        rows = torch.zeros(visit.tokens, self.width)
        rows[kept] = self.rotation.inverse(symbols, steps_of(codes))
        if raw:
            rows[cold] = sections["symbols"][:raw].clone().view(torch.bfloat16).view(-1, self.width).float()
        return rows.to(self.dtype)

    def recall(self, visit: Visit) -> Tensor:
        raise WireError("a link that samples tokens keeps no references")


def keep_probabilities(size: Tensor, share: float) -> Tensor:
    """Probabilities (n,) in proportion to `size` (n,), at most 1, whose sum is `share` of the rows that are not zero.

    Of all unbiased ways to keep so many rows, the one with the least variance (Alain et al. 2015, arXiv 1511.06481).
    """
    positive = size > 0
    budget = share * int(positive.sum())
    probability = positive.float()
    certain = torch.zeros_like(positive)
    while share < 1 and budget > 0:
        free = positive & ~certain
        scale = (budget - int(certain.sum())) / size[free].sum().clamp_min(torch.finfo(size.dtype).tiny)
        probability[free] = size[free] * scale
        over = free & (probability >= 1)
        probability[over] = 1
        if not bool(over.any()):
            break
        certain |= over
    return probability
