"""The bang-bang controller: low thresholds while quality holds, high ones while it suffers.

SplitCom drives its thresholds from validation perplexity between two values; the rule here, with its hysteresis, is
our reconstruction (the paper's constants are not known).
"""

from torch import Tensor

from splitcom_dist.config.implied import bounds_of, gated_links
from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import Decision, Observation
from splitcom_dist.state import State, facts, read_facts


class BangBang:
    """Two states. Low thresholds (few uploads) until perplexity exceeds the best seen by `tolerance`; then high ones
    (many uploads) until it is back within `release` of the best. Between the two bounds the state stays as it is.
    """

    name = "bang_bang"

    def __init__(self, config: Config) -> None:
        self._bounds = {link: bounds_of(config, link) for link in gated_links(config)}
        self._settings = config.control.bang_bang
        self._best = float("inf")
        self._high = False

    def decide(self, observation: Observation) -> list[Decision]:
        """The lower or the upper bound, on every gated link alike."""
        self._best = min(self._best, observation.ppl)
        excess = observation.ppl / self._best - 1
        if excess > self._settings.tolerance:
            self._high = True
        elif excess <= self._settings.release:
            self._high = False
        reason = f"perplexity {observation.ppl:.4g} is {100 * excess:.2f} % above the best"
        state = {"ppl": observation.ppl, "best": self._best, "high": float(self._high)}
        return [
            Decision(link, bounds.high if self._high else bounds.low, reason, state)
            for link, bounds in self._bounds.items()
        ]

    def checkpoint(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> State:
        return {"facts": facts({"best": self._best, "high": self._high})}

    def load(self, state: State) -> None:
        told = read_facts(state["facts"])
        self._best, self._high = told["best"], told["high"]
