"""E(r): rounds to a target quality at LoRA rank r, fitted to runs of this project (benchmarks/rank_epochs.py).

SflLLM fits E(r) to training runs; that it has the form of a falling power law with a floor is our choice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

DATA = Path(__file__).parent / "rank_rounds.json"
POWERS = np.linspace(0.05, 4.0, 396)


@dataclass(frozen=True)
class RoundCurve:
    """E(r) = floor + scale · r^-power."""

    floor: float
    scale: float
    power: float

    def __call__(self, rank: float) -> float:
        return float(self.floor + self.scale * rank**-self.power)


def load(path: Path = DATA) -> list[tuple[int, float]]:
    """(rank, rounds) of every run in a data file."""
    return [(int(point["rank"]), float(point["rounds"])) for point in json.loads(path.read_text())["points"]]


def fit(points: Sequence[tuple[int, float]]) -> RoundCurve:
    """The least-squares curve with floor and scale of at least 0. ValueError for fewer than three ranks."""
    ranks, rounds = np.array(points, dtype=float).T
    if len(set(ranks)) < 3:
        raise ValueError("E(r) has three coefficients: runs at three ranks at least are needed")
    fits = [(*nnls(np.stack([np.ones_like(ranks), ranks**-power], axis=1), rounds), power) for power in POWERS]
    (floor, scale), _, power = min(fits, key=lambda found: found[1])
    return RoundCurve(float(floor), float(scale), float(power))
