"""What a controller is: it sees every evaluation and says each gated link's threshold for the next epoch."""

from dataclasses import dataclass
from typing import Protocol

from splitcom_dist.config import CodecConfig


@dataclass(frozen=True)
class Observation:
    """One evaluation; epoch -1 is the model before training."""

    epoch: int
    ppl: float


@dataclass(frozen=True)
class Decision:
    """A link's threshold for the next epoch, and why."""

    link: str
    theta: float
    reason: str


class Controller(Protocol):
    @property
    def name(self) -> str: ...

    def decide(self, observation: Observation) -> list[Decision]:
        """One decision for every gated link; called once an evaluation, in order."""
        ...


def gated_links(codec: CodecConfig) -> list[str]:
    """The links whose gate has a threshold."""
    return ["up_activation"] if codec.up_activation.gate == "cosine" else []
