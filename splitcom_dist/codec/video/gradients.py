"""Our codec for gradients: few bits an element, if asked few tokens too, and unbiased in both.

Gradients bear less than activations, and an error that is fed back to another sample does not help (METHODS); what is
right in expectation does: stochastic rounding in steps of one size a packet, so that a weak token costs next to
nothing, and token importance sampling with inverse-probability weights.

Nothing is shared between samples here. A gradient at a position depends on what follows it, so two samples with the
same prefix have different gradients there: neither `down_gradient` nor `up_gradient` can use prefix keys.
"""

import torch
from torch import Tensor

from splitcom_dist.codec.entropy.coder import max_bytes
from splitcom_dist.codec.frames import Frames, Limits, no_bytes
from splitcom_dist.codec.store import ReferenceStore
from splitcom_dist.codec.video.payload import (
    max_payload_bytes,
    pack_modes,
    pack_payload,
    unpack_modes,
    unpack_payload,
)
from splitcom_dist.codec.video.steps import LARGEST_STEP, largest_code, steps_of
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError
from splitcom_dist.state import State, Stateless

OMITTED, KEPT, COLD = range(3)  # codes of the mode map
LARGEST_SYMBOL = 2**20
ROUNDING_VARIANCE = 1 / 6  # of stochastic rounding in steps of one, for values anywhere between two of them


class SampledEnd:
    """What both ends share. There is nothing to remember: the store stays empty."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype) -> None:
        self.config = config
        self.width = width
        self.dtype = dtype
        self.store = ReferenceStore()


class SampledEncoder(SampledEnd):
    """The sending end; its draws come from `seed` alone, so that a run can be repeated."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__(config, width, dtype)
        self.theta = config.theta
        self._generator = torch.Generator().manual_seed(seed)

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        return {"generator": self._generator.get_state()}

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`."""
        self._generator.set_state(state["generator"])

    def needs_values(self, visit: Visit) -> bool:
        return True

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames whose decoded rows have `values` as their expectation."""
        assert values is not None
        rows = values.float()
        size = torch.linalg.vector_norm(rows, dim=1)
        cold = ~(size < LARGEST_STEP)  # NaN too
        size = size.masked_fill(cold, 0)
        probability = keep_probabilities(size, self.config.keep)
        kept = torch.rand(len(rows), generator=self._generator) < probability
        weighted = rows[kept] / probability[kept].unsqueeze(1)
        code = largest_code(self._step(size, weighted).view(1))
        scaled = weighted / steps_of(code)
        symbols = (scaled + torch.rand(scaled.shape, generator=self._generator)).floor_().to(torch.int32)
        modes = kept.to(torch.uint8) * KEPT
        modes[cold] = COLD
        sections = {
            "modes": pack_modes(modes),
            "scales": code,
            "symbols": pack_payload(rows[cold], symbols, [self.width]),
        }
        lost, sent = int(cold.sum()), int(kept.sum())
        return Frames(sections, intra=sent, skipped=len(rows) - sent - lost, cold=lost)

    def _step(self, size: Tensor, weighted: Tensor) -> Tensor:
        """The step at which rounding adds `noise` of the squared norm; none so small that symbols would overflow."""
        energy = self.config.noise * size.double().square().sum()
        step = torch.sqrt(energy / (ROUNDING_VARIANCE * max(1, weighted.numel())))
        peak = weighted.abs().max() if weighted.numel() else torch.zeros(())
        return torch.maximum(step.float(), peak / (LARGEST_SYMBOL / 2))


class SampledDecoder(SampledEnd, Stateless):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        return Limits(modes=max_bytes(tokens), scales=1, symbols=max_payload_bytes(tokens, self.width))

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor:
        """Packet sections -> rows (T, d), zeros where nothing was sent. Raises WireError."""
        modes = unpack_modes(sections, visit.tokens, COLD)
        kept, cold = modes == KEPT, modes == COLD
        code = sections.get("scales", no_bytes())
        if len(code) != 1:
            raise WireError(f"scales: {len(code)} bytes, 1 expected")
        raw, symbols = unpack_payload(sections, int(cold.sum()), int(kept.sum()), [self.width])
        rows = torch.zeros(visit.tokens, self.width)
        rows[kept] = symbols.float() * steps_of(code)
        rows[cold] = raw
        return rows.to(self.dtype)

    def recall(self, visit: Visit) -> Tensor:
        raise WireError("a link that samples tokens keeps no references")


def keep_probabilities(size: Tensor, share: float) -> Tensor:
    """Probabilities (n,) in proportion to `size` (n,), at most 1, whose sum is `share` of the rows that are not zero.

    Of all unbiased ways to keep so many rows, the one with the least variance (Alain et al. 2015, arXiv 1511.06481).
    """
    positive = size > 0
    if share >= 1:
        return positive.float()
    size = size.double()
    probability, certain = torch.zeros_like(size), torch.zeros_like(positive)
    budget = share * int(positive.sum())
    while True:
        free = positive & ~certain
        probability[free] = size[free] * ((budget - int(certain.sum())) / size[free].sum())
        over = free & (probability >= 1)
        probability[over] = 1
        certain |= over
        if not bool(over.any()):
            return probability.float()
