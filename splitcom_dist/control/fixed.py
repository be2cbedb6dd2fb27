"""The fixed controller: every link keeps the threshold it was given."""

from dataclasses import dataclass

from splitcom_dist.config import CodecConfig


@dataclass(frozen=True)
class Decision:
    """A link's threshold for the next epoch, and why."""

    link: str
    theta: float
    reason: str


class Fixed:
    name = "fixed"

    def __init__(self, codec: CodecConfig) -> None:
        self._codec = codec

    def decide(self) -> list[Decision]:
        """One decision for every gated link."""
        if self._codec.up_activation.gate != "cosine":
            return []
        return [Decision("up_activation", self._codec.up_activation.theta, "as configured")]
