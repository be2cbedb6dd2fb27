"""The byte budget: a run ends at a given number of bytes, spent where an upload helps most.

Where it helps is the rule of lazily aggregated quantized gradients (LAQ, arXiv 1909.07588): an upload may be
left out while its error is small against recent parameter movement over the learning rate. How much of that error
the budget allows is one gain for all links, corrected after every round by what was spent against what is left.
The rule for whole gradients is the paper's; its use as a threshold on a cosine, and the gain, are ours.
"""

import math
from collections import deque

from torch import Tensor

from splitcom_dist.config import Config, gated_links
from splitcom_dist.control.controller import Decision, LinkUse, Observation

EVERYTHING_KNOWN = -1.0  # a threshold that no cosine fails: only first visits are sent
MEMORY = 10  # rounds of movement that count
CAUTION = 0.5  # share of the logarithmic error that one correction removes
LARGEST_CORRECTION = math.log(4)


class ByteBudget:
    """Squared relative error allowed on a link: gain x movement x 2 (1 - its configured theta).

    Movement is the mean of (|change of the averaged adapter| / learning rate)^2 over the last rounds, relative to the
    first ones seen. For equal norms a cosine rho is a relative error sqrt(2 - 2 rho), so theta = 1 - error^2 / 2.
    """

    name = "byte_budget"

    def __init__(self, config: Config) -> None:
        self._thetas = {link: getattr(config.codec, link).theta for link in gated_links(config)}
        self._budget = config.control.byte_budget.megabytes * 1e6
        self._spent = 0.0
        self._log_gain = 0.0
        self._movements: deque[float] = deque(maxlen=MEMORY)
        self._first_movement = 0.0
        self._progress = 0.0

    def decide(self, observation: Observation) -> list[Decision]:
        """Thresholds for the next round."""
        elapsed, self._progress = observation.progress - self._progress, observation.progress
        self._spent += observation.wire_bytes
        self._remember_movement(observation)
        allowed, spent = self._rates(observation, elapsed)
        left = 1 - self._spent / self._budget
        state = {"spent_MB": self._spent / 1e6, "allowed_rate": allowed, "spent_rate": spent}
        if allowed <= 0:
            reason = f"{100 * left:.1f} % of the budget left, other costs need it all: first visits only"
            return [Decision(link, EVERYTHING_KNOWN, reason, state) for link in self._thetas]
        if observation.epoch >= 1 and elapsed > 0:  # before, everything is a first visit and no threshold matters
            error = math.log(max(spent, 1e-9) / allowed)
            self._log_gain += CAUTION * max(-LARGEST_CORRECTION, min(LARGEST_CORRECTION, error))
        movement = self._movement
        reason = f"{100 * left:.1f} % of the budget left for {100 * (1 - observation.progress):.1f} % of the run"
        state |= {"movement": movement, "gain": math.exp(self._log_gain)}
        return [Decision(link, self._theta(theta, movement), reason, state) for link, theta in self._thetas.items()]

    def checkpoint(self) -> dict[str, Tensor]:
        return {}

    def _theta(self, configured: float, movement: float) -> float:
        return max(EVERYTHING_KNOWN, 1 - math.exp(self._log_gain) * movement * (1 - configured))

    def _remember_movement(self, observation: Observation) -> None:
        if observation.lr > 0 and observation.movement > 0:
            self._movements.append((observation.movement / observation.lr) ** 2)
            self._first_movement = self._first_movement or self._movements[0]

    @property
    def _movement(self) -> float:
        return sum(self._movements) / len(self._movements) / self._first_movement if self._movements else 1.0

    def _rates(self, observation: Observation, elapsed: float) -> tuple[float, float]:
        """Gated bytes a unit of progress (the whole run is 1): what the rest of the budget allows, and what was spent.

        Infinite and 0 where nothing has been observed yet.
        """
        if elapsed <= 0:
            return math.inf, 0.0
        gated = sum(observation.use.get(link, LinkUse()).wire_bytes for link in self._thetas)
        others = (observation.wire_bytes - gated) / elapsed
        remaining = max(1 - observation.progress, elapsed)
        return (self._budget - self._spent) / remaining - others, gated / elapsed
