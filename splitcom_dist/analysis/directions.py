"""How alike visits are, and in how few directions samples move, from their sketches."""

from dataclasses import dataclass

import numpy as np

from splitcom_dist.analysis.sketches import Visits


def distances(visits: Visits) -> tuple[np.ndarray, np.ndarray]:
    """1 - cosine between any two epochs (e, e), mean over samples and 90 % quantile; NaN where no sample has both, and
    of an epoch to itself.

    A cosine is off by about (1 - cosine^2) / sqrt(k) for one sample; the mean is not biased by it.
    """
    found = np.concatenate(
        [_distances(part) for part in np.array_split(visits.values, max(1, len(visits.values) // 64))]
    )
    there = ~np.isnan(found).all(axis=0) & ~np.eye(found.shape[1], dtype=bool)
    mean, high = np.full(there.shape, np.nan), np.full(there.shape, np.nan)
    mean[there] = np.nanmean(found[:, there], axis=0)
    high[there] = np.nanquantile(found[:, there], 0.9, axis=0)
    return mean, high


def _distances(values: np.ndarray) -> np.ndarray:
    """(s, e, k) -> (s, e, e)."""
    rows = values.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        found: np.ndarray = np.maximum(0, 1 - rows @ rows.transpose(0, 2, 1))
    return found


@dataclass(frozen=True)
class Spectrum:
    """Energy of changes along their principal directions, as shares, descending (n,)."""

    shares: np.ndarray

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the shares (Roy and Vetterli 2007): n for n directions of equal energy."""
        positive = self.shares[self.shares > 0]
        return float(np.exp(-(positive * np.log(positive)).sum()))

    def held(self, directions: int) -> float:
        """Share of the energy in so many directions."""
        return float(self.shares[:directions].sum())


def spectrum(changes: np.ndarray) -> Spectrum | None:
    """Of changes (n, k); those with NaN are left out. None where nothing has changed."""
    changes = changes[np.isfinite(changes).all(axis=1)]
    products = changes @ changes.T if len(changes) < changes.shape[1] else changes.T @ changes  # the smaller one
    energy = np.linalg.eigvalsh(products)[::-1].clip(0)
    return Spectrum(energy / energy.sum()) if energy.sum() > 0 else None


def between(visits: Visits, column: int) -> np.ndarray:
    """Changes of all samples (s, k) from the epoch before to that of `column` >= 1."""
    changes: np.ndarray = visits.rows(column) - visits.rows(column - 1)
    return changes


def independent(changes: np.ndarray) -> np.ndarray:
    """Changes of the same sizes in directions that have nothing to do with each other: what no structure looks like."""
    sizes = np.linalg.norm(changes, axis=1, keepdims=True)
    drawn = np.random.default_rng(0).standard_normal(changes.shape)
    scaled: np.ndarray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * sizes
    return scaled


def along_epochs(visits: Visits) -> np.ndarray:
    """Share of a sample's changes over the run that its first 1, 2, ... directions hold (e - 1,), mean over samples
    that were there at every epoch; a sample that drifts along a line has 1 at once. Empty with fewer than three
    epochs, or no such sample."""
    rows = visits.values.astype(np.float32) * visits.norm[..., None]
    rows = rows[np.isfinite(rows).all(axis=(1, 2))]
    if rows.shape[1] < 3 or not len(rows):
        return np.zeros(0)
    changes = np.diff(rows, axis=1)
    energy = np.linalg.eigvalsh(changes @ changes.transpose(0, 2, 1))[:, ::-1].clip(0)
    energy = energy[energy.sum(axis=1) > 0]
    shares: np.ndarray = energy.cumsum(1) / energy.sum(1, keepdims=True)
    return shares.mean(0) if len(shares) else np.zeros(0)
