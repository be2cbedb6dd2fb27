"""A controller of one's own, `ramp`: few uploads while everything moves, many towards the end.

A stale activation costs most when the server has settled on it, so thresholds rise from the lower bound of their link
to the upper one with the share of the run that is done, to the power `control.options.power`.
"""

from torch import Tensor

from splitcom_dist.config.implied import bounds_of, gated_links
from splitcom_dist.config.schema import Config
from splitcom_dist.control.choice import register_controller
from splitcom_dist.control.controller import Decision, Observation
from splitcom_dist.state import Stateless


class Ramp(Stateless):  # nothing to save: all follows from the observation
    name = "ramp"

    def __init__(self, config: Config) -> None:
        self._power = config.control.options.get("power", 1.0)
        self._bounds = {link: bounds_of(config, link) for link in gated_links(config)}

    def decide(self, observation: Observation) -> list[Decision]:
        """One threshold for every gated link; each lands in /threshold of run.h5 with reason and state."""
        share = observation.progress**self._power
        reason = f"{observation.progress:.0%} of the run is done"
        return [
            Decision(link, bounds.low + share * (bounds.high - bounds.low), reason, {"share": share})
            for link, bounds in self._bounds.items()
        ]

    def checkpoint(self) -> dict[str, Tensor]:
        """Nothing that another run could load: it does not learn."""
        return {}


register_controller("ramp", Ramp, by_rounds=True)
