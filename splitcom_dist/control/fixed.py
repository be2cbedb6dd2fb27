"""The fixed controller: every link keeps the threshold it was given."""

from torch import Tensor

from splitcom_dist.config.implied import gated_links, threshold_of
from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import Decision, Observation
from splitcom_dist.state import Stateless


class Fixed(Stateless):
    name = "fixed"

    def __init__(self, config: Config) -> None:
        self._thetas = {link: threshold_of(getattr(config.codec, link)) for link in gated_links(config)}

    def decide(self, observation: Observation) -> list[Decision]:
        """The configured threshold, whatever was observed."""
        state = {"ppl": observation.ppl}
        return [Decision(link, theta, "as configured", state) for link, theta in self._thetas.items()]

    def checkpoint(self) -> dict[str, Tensor]:
        return {}
