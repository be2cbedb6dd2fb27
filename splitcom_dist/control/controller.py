"""What a controller is: it sees how a run goes and says each gated link's threshold until it is asked again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from splitcom_dist.state import Stateful


@dataclass(frozen=True)
class LinkUse:
    """What crossed on one link since the last observation, over all clients."""

    raw_bytes: int = 0  # what a baseline without padding would have sent
    wire_bytes: int = 0
    sent: int = 0  # positions
    skipped: int = 0
    drift: float = 0.0  # relative error a sample gains from one visit to the next, mean; 0 where nothing was gated

    @property
    def ratio(self) -> float:
        """Wire bytes over raw bytes; 0 where nothing was due."""
        return self.wire_bytes / self.raw_bytes if self.raw_bytes else 0.0


@dataclass(frozen=True)
class Observation:
    """How the run stands after a step; step -1 is the model before training.

    Losses are in nats a target token: the validation loss if there was an evaluation, the mean training loss since the
    last observation. `movement` is the Euclidean norm of the change of the clients' averaged adapter since then.
    """

    step: int
    epoch: int
    progress: float  # steps done over all steps of the run
    validation_loss: float | None = None
    train_loss: float | None = None
    use: Mapping[str, LinkUse] = field(default_factory=dict)
    other_bytes: int = 0  # adapters and whatever else is no link's
    lr: float = 0.0
    movement: float = 0.0

    @property
    def ppl(self) -> float:
        """Validation perplexity; NaN where there was no evaluation."""
        return math.nan if self.validation_loss is None else math.exp(min(self.validation_loss, 700.0))

    @property
    def wire_bytes(self) -> int:
        return sum(use.wire_bytes for use in self.use.values()) + self.other_bytes


@dataclass(frozen=True)
class Decision:
    """A link's threshold from now on, why, and the figures it was taken from."""

    link: str
    theta: float
    reason: str
    state: Mapping[str, float] = field(default_factory=dict)


class Controller(Stateful, Protocol):
    @property
    def name(self) -> str: ...

    def decide(self, observation: Observation) -> list[Decision]:
        """One decision for every gated link; called in the order of the run."""
        ...

    def checkpoint(self) -> dict[str, Tensor]:
        """What it has learnt, for another run to load; empty if it does not learn."""
        ...
