"""Bandwidth and latency of an edge from how long its packets took there and back, by robust least squares.

A packet up and its answer down take up / U + down / D + 2 L seconds. Packets that are all alike tell only the sum of
the three: what cannot be told apart is fitted as one, and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

LEAST_PACKETS = 8  # to tell bandwidths and latency
FEW_PACKETS = 3  # to tell how long packets take on the whole
QUICKEST = 0.1  # of packets that all had to queue, so many are taken to have queued least
# Told apart are directions whose difference has a standard error of at most this share of their sum, and a latency
# whose standard error is at most the other share of the median time.
APART, LATENCY_APART = 0.25, 0.1
LOSSES = ("soft_l1", "cauchy", "cauchy")  # each with the spread that the one before it has left
UNKNOWN = 1e30  # a variance
SPREAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True)
class Way:
    """Bytes a second in both directions, seconds of latency one way, and what the packets do not tell."""

    up: float
    down: float
    latency: float
    untold: Sequence[str] = ()


@dataclass(frozen=True)
class _Fit:
    values: np.ndarray  # (columns,)
    covariance: np.ndarray  # (columns, columns), UNKNOWN where columns are not independent

    def error(self, weights: Sequence[float]) -> float:
        """Standard error of a weighted sum of the values."""
        return float(np.sqrt(np.asarray(weights) @ self.covariance @ np.asarray(weights)))


def fit_way(up: np.ndarray, down: np.ndarray, seconds: np.ndarray, unqueued: np.ndarray) -> Way:
    """From bytes up, bytes down and seconds of each exchange, and whether the packet was taken as it came, all (n,).

    ValueError for fewer than FEW_PACKETS.
    """
    if len(seconds) < FEW_PACKETS:
        raise ValueError(f"{len(seconds)} packets, {FEW_PACKETS} at least are needed")
    count = int(np.count_nonzero(unqueued))
    if count < LEAST_PACKETS:
        return _on_the_whole(up + down, seconds, unqueued, count)
    up, down, seconds = up[unqueued], down[unqueued], seconds[unqueued]
    untold, both, ones = [], up + down, np.ones(len(seconds))
    fitted = _fit([up, down, ones], seconds)
    directions = fitted.error([1, -1, 0]) <= APART * (fitted.values[0] + fitted.values[1])
    columns = [up, down] if directions else [both]
    if not directions:
        untold.append("up from down: bytes of both grow together, both are taken as fast as they are together")
        fitted = _fit([both, ones], seconds)
    if fitted.error([*[0] * len(columns), 1]) <= LATENCY_APART * float(np.median(seconds)):
        latency = float(fitted.values[-1]) / 2
    else:
        untold.append("latency from bandwidth: packets are too much alike, all time is taken as bandwidth's")
        latency, fitted = 0.0, _fit(columns, seconds)
    rates = []
    for place, name in enumerate(("up", "down") if directions else ("up and down",)):
        pace, error = float(fitted.values[place]), float(np.sqrt(fitted.covariance[place, place]))
        if pace <= error:
            untold.append(f"{name} from no time at all: the least that it can be is taken")
        rates.append(1 / (pace + error if pace <= error else pace))
    return Way(rates[0], rates[-1], latency, untold)


def _on_the_whole(both: np.ndarray, seconds: np.ndarray, unqueued: np.ndarray, count: int) -> Way:
    """Both directions equally fast, latency in them: as packets that did not queue say, or as the quickest."""
    paces, found = seconds / both, f"{count} of {len(seconds)} found the server waiting"
    if count >= FEW_PACKETS:
        pace, untold = float(np.median(paces[unqueued])), f"up from down and latency: {found}"
    else:
        pace, untold = float(np.quantile(paces, QUICKEST)), f"more than the least speed of the link: {found}"
    return Way(1 / pace, 1 / pace, 0.0, [untold])


def _fit(columns: Sequence[np.ndarray], seconds: np.ndarray) -> _Fit:
    """Values of at least 0 by which the columns sum up to the seconds; a few packets that were held up count little."""
    table = np.stack(columns, axis=1).astype(np.float64)
    scale = table.mean(0)
    table /= scale
    found, *_ = np.linalg.lstsq(table, seconds, rcond=None)
    for loss in LOSSES:
        found = least_squares(
            lambda values: table @ values - seconds,
            np.maximum(found, 1e-9),
            jac=lambda values: table,
            bounds=(0, np.inf),
            loss=loss,
            f_scale=max(_spread(table @ found - seconds), 1e-6),
        ).x
    product = table.T @ table
    count = len(seconds)
    if np.linalg.cond(product) > 1e12:
        return _Fit(found / scale, np.diag(np.full(len(scale), UNKNOWN)))
    spread = _spread(table @ found - seconds) * np.sqrt(count / max(1, count - len(scale)))
    return _Fit(found / scale, spread**2 * np.linalg.inv(product) / np.outer(scale, scale))


def _spread(residuals: np.ndarray) -> float:
    return float(SPREAD * np.median(np.abs(residuals - np.median(residuals))))
