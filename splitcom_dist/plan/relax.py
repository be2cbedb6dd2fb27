"""How far a limit must be relaxed for a plan to become feasible."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

MOST_FACTOR = 1e4  # a limit that has to be relaxed further is not what is in the way


def least_factor(excess: Callable[[float], float]) -> float | None:
    """The least factor above 1 at which `excess`, which falls with it and is above 0 at 1, is 0; None if none is."""
    if excess(MOST_FACTOR) > 0:
        return None
    return float(np.exp(brentq(lambda power: excess(float(np.exp(power))), 0.0, np.log(MOST_FACTOR), xtol=1e-4)))
