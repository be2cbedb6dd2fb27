"""One batch as both ends of a link name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Visit:
    """B distinct sample ids, and how many positions each has (B,).

    `paths` are the keys of each sample's positions, where the run has a codec that keeps references by position:
    equal keys stand for equal token prefixes, so for equal activations (see prefix.py).
    """

    samples: list[int]
    lengths: Tensor
    paths: Sequence[np.ndarray] | None = None

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def keys(self) -> Tensor:
        """Of all positions, (T,) int64; ValueError where the visit has none."""
        if self.paths is None:
            raise ValueError("this visit was made without keys")
        return torch.from_numpy(np.concatenate(self.paths))
