"""The byte budget: a run ends at a given number of bytes, spent where an upload helps most.

Where it helps is the rule of lazily aggregated quantized gradients (LAQ, arXiv 1909.07588): an upload may be left out
while its error is small against recent parameter movement over the learning rate. How large that error may be in all
is one gain, which follows what the rest of the budget allows. The rule for whole gradients is the paper's; its use as
a threshold on a cosine, and the gain, are ours.
"""

import math
from collections import deque

from torch import Tensor

from splitcom_dist.config.implied import bounds_of, gated_links, threshold_of
from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import Decision, LinkUse, Observation
from splitcom_dist.state import State, facts, read_facts

EVERYTHING_KNOWN = -1.0  # a threshold that no cosine fails: only first visits are sent
MEMORY = 10  # rounds of movement that count
SMALLEST_GAIN, LARGEST_GAIN = 1e-3, 1e3
INERTIA = 0.7  # of the gain's logarithm, a round: within it, movement decides


class ByteBudget:
    """Relative error allowed on a link: gain x movement x sqrt(2 - 2 its configured theta).

    Movement is the mean of |change of the averaged adapter| / learning rate over the last rounds, relative to the
    first one seen. For equal norms a cosine rho is a relative error sqrt(2 - 2 rho), so theta = 1 - error^2 / 2. A
    sample that gains the error v a visit is sent about once in error / v visits: so the links' drift tells what a gain
    would cost, and which gain the rest of the budget pays for. Thresholds stay within the bounds of their links: below
    the lower one a server trains on what has little to do with the client any more, and what that breaks no later
    upload mends. Only when the budget is gone are they left.
    """

    name = "byte_budget"

    def __init__(self, config: Config) -> None:
        links = gated_links(config)
        self._tolerances = {link: math.sqrt(2 - 2 * threshold_of(getattr(config.codec, link))) for link in links}
        self._bounds = {link: bounds_of(config, link) for link in links}
        self._budget = config.control.byte_budget.megabytes * 1e6
        self._spent = self._progress = 0.0
        self._whole: dict[str, float] = {}  # bytes of a link over the whole run, were every sample sent
        self._drift: dict[str, float] = {}
        self._gain: float | None = None
        self._movements: deque[float] = deque(maxlen=MEMORY)
        self._first_movement = 0.0

    def decide(self, observation: Observation) -> list[Decision]:
        """Thresholds for the next round."""
        elapsed, self._progress = observation.progress - self._progress, observation.progress
        self._spent += observation.wire_bytes
        self._remember(observation, elapsed)
        allowed = self._allowed(observation, elapsed)
        left = f"{100 * (1 - self._spent / self._budget):.1f} % of the budget left"
        state = {"spent_MB": self._spent / 1e6, "allowed_MB": allowed / 1e6, "movement": self._movement}
        if allowed <= 0:
            reason = f"{left}, other costs need it all: first visits only"
            return [Decision(link, EVERYTHING_KNOWN, reason, state) for link in self._tolerances]
        gain = self._follow(allowed)
        reason = f"{left} for {100 * (1 - observation.progress):.1f} % of the run"
        return [
            Decision(
                link,
                self._theta(link, gain * tolerance),
                reason,
                state | {"gain": gain, "drift": self._drift.get(link, 0)},
            )
            for link, tolerance in self._tolerances.items()
        ]

    def checkpoint(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> State:
        told = {
            "spent": self._spent,
            "progress": self._progress,
            "whole": self._whole,
            "drift": self._drift,
            "gain": self._gain,
            "movements": list(self._movements),
            "first_movement": self._first_movement,
        }
        return {"facts": facts(told)}

    def load(self, state: State) -> None:
        told = read_facts(state["facts"])
        self._spent, self._progress, self._gain = told["spent"], told["progress"], told["gain"]
        self._whole, self._drift = told["whole"], told["drift"]
        self._movements = deque(told["movements"], maxlen=MEMORY)
        self._first_movement = told["first_movement"]

    def _theta(self, link: str, error: float) -> float:
        bounds = self._bounds[link]
        return min(bounds.high, max(bounds.low, 1 - (error * self._movement) ** 2 / 2))

    def _follow(self, allowed: float) -> float:
        """The gain whose bytes are the allowed ones, approached from the last; 1 until something has drifted."""
        if any(self._drift.get(link) and link in self._whole for link in self._tolerances):
            low, high = SMALLEST_GAIN, LARGEST_GAIN
            for _ in range(60):  # bisection: the larger the gain, the fewer bytes
                middle = math.sqrt(low * high)
                low, high = (middle, high) if self._cost(middle) > allowed else (low, middle)
            last = high if self._gain is None else self._gain
            self._gain = math.exp(INERTIA * math.log(last) + (1 - INERTIA) * math.log(high))
        return self._gain or 1.0

    def _cost(self, gain: float) -> float:
        """Bytes of a whole run at a gain. A visit finds the error half a visit's drift beyond what is allowed."""
        return sum(
            self._whole.get(link, 0.0) * min(1.0, 1 / (gain * self._movement * tolerance / self._drift[link] + 0.5))
            for link, tolerance in self._tolerances.items()
            if self._drift.get(link)
        )

    def _remember(self, observation: Observation, elapsed: float) -> None:
        if observation.lr > 0 and observation.movement > 0:
            self._movements.append(observation.movement / observation.lr)
            self._first_movement = self._first_movement or self._movements[0]
        for link in self._tolerances:
            use = observation.use.get(link, LinkUse())
            if use.sent and elapsed > 0:
                self._whole[link] = use.wire_bytes * (use.sent + use.skipped) / use.sent / elapsed
            if use.drift > 0:
                self._drift[link] = use.drift

    @property
    def _movement(self) -> float:
        return sum(self._movements) / len(self._movements) / self._first_movement if self._movements else 1.0

    def _allowed(self, observation: Observation, elapsed: float) -> float:
        """Bytes of gated links that the budget leaves, were its rest spent evenly over a whole run."""
        if elapsed <= 0:
            return math.inf
        gated = sum(observation.use.get(link, LinkUse()).wire_bytes for link in self._tolerances)
        others = (observation.wire_bytes - gated) / elapsed
        return (self._budget - self._spent) / max(1 - observation.progress, elapsed) - others
