"""Packet sections are uint8 tensors; entropy coders speak bytes."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def as_section(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)


def as_bytes(sections: Mapping[str, Tensor], name: str) -> bytes:
    """The bytes of a section; none if the packet lacks it."""
    section: np.ndarray = sections.get(name, torch.empty(0, dtype=torch.uint8)).numpy()
    return section.tobytes()
