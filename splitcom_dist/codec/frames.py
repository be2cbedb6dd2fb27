"""What an encoder makes of one batch, and what the two ends of a link are to the roles that use them."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from splitcom_dist.codec.gated.gate import Similarity
from splitcom_dist.codec.visit import Visit
from splitcom_dist.state import Stateful


@dataclass(frozen=True)
class Frames:
    """One encoded batch: packet sections (uint8) by name, and its positions by kind."""

    sections: dict[str, Tensor] = field(default_factory=dict)
    intra: int = 0  # I: sent whole
    predicted: int = 0  # P: sent as a change
    skipped: int = 0  # S: not sent
    cold: int = 0  # C: not finite, sent raw and not remembered
    similarity: Similarity | None = None
    sent: Tensor | None = None  # (B,) bool: samples of which something was sent


@dataclass(frozen=True)
class Limits:
    """The most bytes each section of a packet may have, and exact bytes of scales and symbols a position if fixed."""

    side: int = 0
    modes: int = 0
    scales: int = 0
    symbols: int = 0
    intra: tuple[int, int] | None = None


class Store(Protocol):
    """What both ends of a link remember; equal digests mean equal references."""

    digest: int

    def clear(self) -> None: ...

    def close(self) -> None:
        """Give memory back and remove files; the store is of no use afterwards."""
        ...


class Encoder(Stateful, Protocol):
    """The sending end. After every packet its store equals that of its decoder, bit for bit."""

    theta: float  # threshold, as a cosine; controllers move it

    @property
    def store(self) -> Store: ...

    def needs_values(self, visit: Visit) -> bool:
        """False if this batch can be encoded without computing what would be sent."""
        ...

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames; updates the store. None only where `needs_values` is False."""
        ...


class Decoder(Stateful, Protocol):
    """The receiving end."""

    @property
    def store(self) -> Store: ...

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        ...

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor | None:
        """Packet sections -> rows (T, d), in storage of their own; then updates the store. None: the link has none.

        Raises WireError, with the store unchanged, if the sections are not what an encoder makes.
        """
        ...

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d), for a step in which nothing crosses. Raises WireError if one is missing."""
        ...


def no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)
