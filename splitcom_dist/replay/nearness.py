"""How near two visits of a sample are: as the run's gate measured it where it did, else estimated.

From count sketches of k values a cosine has the error (1 - rho^2) / sqrt(k). Without sketches only the similarities to
the run's own references are known; between other visits of a sample lies then what its drift over time makes likely.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.replay.visits import Visits

EXPONENT = 2.0  # errors add up like steps of a random walk: squared


class Estimate(Protocol):
    def __call__(self, reference: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Cosines (n,) of visits (n,) and earlier ones of the same samples (n,)."""
        ...


@dataclass(frozen=True)
class Nearness:
    """What the gate of a link compares; `known` are the columns of Visits that are taken as they are."""

    visits: Visits
    estimate: Estimate
    known: Mapping[str, str] = field(default_factory=lambda: {"previous_cosine": "previous", "cosine": "reference"})
    shrink: float = 1.0  # of 1 - cosine, where a gate compares with references that it has rescaled
    drift: float = 1.0  # of every 1 - cosine: what if values had moved faster or slower than in the run

    def cosine(self, reference: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Of visits `now` (n,) to visits `reference` (n,), float64."""
        cosine = 1 - self.shrink * (1 - self.estimate(reference, now))
        for column, other in self.known.items():
            told = getattr(self.visits, column)[now]
            use = (getattr(self.visits, other)[now] == reference) & ~np.isnan(told)
            cosine[use] = told[use]
        return np.asarray(1 - self.drift * (1 - cosine)) if self.drift != 1 else cosine

    def error(self, cosine: np.ndarray, reference: np.ndarray, now: np.ndarray, rescale: bool) -> np.ndarray:
        """||now - what stands for it|| / ||now|| (n,) at these cosines; with equal norms where none are logged."""
        if rescale:
            return np.asarray(np.sqrt(np.clip(1 - cosine**2, 0, None)))
        ratio = self.visits.norm[reference] / self.visits.norm[now]
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)
        return np.asarray(np.sqrt(np.clip(1 + ratio**2 - 2 * ratio * cosine, 0, None)))


def nearness_of(visits: Visits) -> Nearness:
    """By sketches if there are any."""
    return Nearness(visits, Sketched(visits) if visits.values.shape[1] else Drifting(visits))


def judged_by(nearness: Nearness, logged: LinkCodecConfig, wanted: LinkCodecConfig) -> Nearness:
    """The same as the gate of `wanted` would see it, in logs made with `logged`.

    A gate that rescales compares with references that are nearer than any visit was; by how much is taken from what
    it saw itself.
    """
    seen = {"cosine": "reference"} if logged.rescale == wanted.rescale else {}
    if not wanted.rescale:
        return replace(nearness, known={"previous_cosine": "previous", **seen})
    visits = nearness.visits
    rows = np.flatnonzero(~np.isnan(visits.cosine) & (visits.reference >= 0))
    apart = float((1 - nearness.estimate(visits.reference[rows], rows)).sum())
    shrink = float((1 - visits.cosine[rows]).sum()) / apart if apart > 0 else 1.0
    return replace(nearness, known=seen, shrink=shrink)


class Sketched:
    """Cosines of logged sketches."""

    def __init__(self, visits: Visits) -> None:
        self._values = visits.values
        self._norms = np.linalg.norm(visits.values.astype(np.float32), axis=1) if len(visits.values) else np.zeros(0)

    def __call__(self, reference: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Cosines (n,); 0 against zeros."""
        left, right = self._values[reference].astype(np.float64), self._values[now].astype(np.float64)
        norms = self._norms[reference] * self._norms[now].astype(np.float64)
        return np.asarray(np.einsum("nk,nk->n", left, right) / np.maximum(norms, np.finfo(np.float64).tiny))


class Drifting:
    """Cosines by a clock of each sample, which every logged similarity moves on: e(a, b)^p = clock(b) - clock(a)."""

    def __init__(self, visits: Visits, exponent: float = EXPONENT) -> None:
        self._exponent = exponent
        error = np.sqrt(np.clip(2 - 2 * np.nan_to_num(visits.cosine, nan=1.0), 0, None))
        self._clock = np.zeros(len(error))
        for turn in range(1, int(visits.ordinal.max(initial=0)) + 1):
            rows = np.flatnonzero(visits.ordinal == turn)
            self._clock[rows] = self._clock[visits.reference[rows]] + error[rows] ** exponent

    def __call__(self, reference: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Cosines (n,)."""
        error = np.abs(self._clock[now] - self._clock[reference]) ** (1 / self._exponent)
        return np.asarray(1 - error**2 / 2)
