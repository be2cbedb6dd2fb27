"""Limits that a plan must keep, and which one to relax by how much where none can."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from splitcom_dist.errors import UserError
from splitcom_dist.planning.estimate import Estimate


def _megabytes(size: int | None) -> float:
    if size is None:
        raise UserError("--limits: the profile is of a run that has not finished or was on GPUs, and knows no memory")
    return size / 1e6


METRICS: Mapping[str, Callable[[Estimate], float]] = {
    "seconds": lambda found: found.run_seconds,
    "megabytes": lambda found: found.bytes / 1e6,
    "client_memory_mb": lambda found: _megabytes(found.client_memory),
    "server_memory_mb": lambda found: _megabytes(found.server_memory),
}


@dataclass(frozen=True)
class Limit:
    name: str
    most: float

    def excess(self, found: Estimate) -> float:
        """By what factor an estimate is above it."""
        return float(METRICS[self.name](found)) / self.most

    def needs(self, found: Estimate) -> str:
        value = float(METRICS[self.name](found))
        return f"{self.name}={value:.4g} ({value - self.most:.4g} more)"


def parse(texts: Sequence[str]) -> list[Limit]:
    """`seconds=600` and the like. Raises UserError."""
    limits = []
    for text in texts:
        name, _, value = text.partition("=")
        if name not in METRICS:
            raise UserError(f"--limits {text}: known are {', '.join(METRICS)}")
        try:
            limits.append(Limit(name, float(value)))
        except ValueError:
            raise UserError(f"--limits {text}: {value!r} is not a number") from None
        if not limits[-1].most > 0:
            raise UserError(f"--limits {text}: must be above 0")
    return limits


def within(found: Sequence[Estimate], limits: Sequence[Limit]) -> list[Estimate]:
    """Those that keep every limit, the soonest first. Raises UserError with the mends if there is none."""
    kept = [each for each in found if all(limit.excess(each) <= 1 for limit in limits)]
    if kept:
        return sorted(kept, key=lambda each: (each.run_seconds, each.bytes))
    mends = []
    for limit in limits:
        others = [each for each in found if all(other.excess(each) <= 1 for other in limits if other != limit)]
        if others:
            mends.append(f"allow {limit.needs(min(others, key=limit.excess))}")
    if not mends:  # no single one suffices
        nearest = min(found, key=lambda each: max(limit.excess(each) for limit in limits))
        broken = [limit.needs(nearest) for limit in limits if limit.excess(nearest) > 1]
        mends = [f"allow {' and '.join(broken)}"]
    given = " ".join(f"{limit.name}={limit.most:g}" for limit in limits)
    raise UserError(f"--limits {given}: no plan keeps them all: {'; or '.join(mends)}")
