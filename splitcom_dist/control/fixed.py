"""The fixed controller: every link keeps the threshold it was given."""

from splitcom_dist.config import CodecConfig
from splitcom_dist.control.controller import Decision, Observation, gated_links


class Fixed:
    name = "fixed"

    def __init__(self, codec: CodecConfig) -> None:
        self._codec = codec

    def decide(self, observation: Observation) -> list[Decision]:
        """The configured threshold, whatever was observed."""
        return [Decision(link, getattr(self._codec, link).theta, "as configured") for link in gated_links(self._codec)]
