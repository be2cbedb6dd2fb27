"""Steps of uniform quantizers as one byte each: a quarter of an octave apart, from 2^-40 to 2^24."""

import torch
from torch import Tensor

CODES = 256
PER_OCTAVE = 4
SMALLEST = -40  # the exponent of code 0
# Written out: a power function may differ in its last bit from one machine to the next.
_FRACTIONS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)
_STEPS = torch.tensor(
    [_FRACTIONS[code % PER_OCTAVE] * 2.0 ** (code // PER_OCTAVE + SMALLEST) for code in range(CODES)],
    dtype=torch.float32,
)

LARGEST_STEP = float(_STEPS[-1])


def steps_of(codes: Tensor) -> Tensor:
    """(n,) uint8 -> steps (n,) float32."""
    return _STEPS[codes.long()]


def largest_code(steps: Tensor) -> Tensor:
    """(n,) -> codes (n,) uint8 of the largest steps that are no larger; 0 where all are larger."""
    return (torch.bucketize(steps.float(), _STEPS, right=True) - 1).clamp_(0, CODES - 1).to(torch.uint8)


def smallest_code(steps: Tensor) -> Tensor:
    """(n,) -> codes (n,) uint8 of the smallest steps that are no smaller; 255 where all are smaller."""
    return torch.bucketize(steps.float(), _STEPS).clamp_(0, CODES - 1).to(torch.uint8)
