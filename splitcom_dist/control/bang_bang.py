"""The bang-bang controller: a low threshold while quality holds, a high one while it suffers.

SplitCom drives its threshold from validation perplexity between two values; the rule here, with its hysteresis, is
our reconstruction (the paper's constants are not known).
"""

from splitcom_dist.config import BangBangConfig, CodecConfig
from splitcom_dist.control.controller import Decision, Observation, gated_links


class BangBang:
    """Two states. Low threshold (few uploads) until perplexity exceeds the best seen by `tolerance`; then the high one
    (many uploads) until it is back within `release` of the best. Between the two bounds the state stays as it is.
    """

    name = "bang_bang"

    def __init__(self, codec: CodecConfig, settings: BangBangConfig) -> None:
        self._links = gated_links(codec)
        self._settings = settings
        self._best = float("inf")
        self._high = False

    def decide(self, observation: Observation) -> list[Decision]:
        """The same threshold for every gated link."""
        settings = self._settings
        self._best = min(self._best, observation.ppl)
        excess = observation.ppl / self._best - 1
        if excess > settings.tolerance:
            self._high = True
        elif excess <= settings.release:
            self._high = False
        theta = settings.theta_high if self._high else settings.theta_low
        reason = f"perplexity {observation.ppl:.4g} is {100 * excess:.2f} % above the best"
        return [Decision(link, theta, reason) for link in self._links]
