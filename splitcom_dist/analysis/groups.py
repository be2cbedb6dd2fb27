"""Sums and quantiles by link, epoch and client, added up chunk by chunk in memory that does not grow with the rows."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from splitcom_dist.analysis.logs import Rows

BITS = {"link": 3, "epoch": 20, "client": 24, "bin": 13}  # of a packed key; 60 in all
STEPS = 200  # bins a decade: a quantile is right to 1.2 %
LOWEST, DECADES = -8, 12  # bins go from 1e-8 to 1e4; what is below or above counts as the end
MERGED = 1 << 20  # fewest that are merged at once
NONE = -1  # epochs and clients begin there


class Sums:
    """Sums of some columns by some keys, float64: exact for whole numbers below 2^53."""

    def __init__(self, keys: Sequence[str], columns: Sequence[str]) -> None:
        self.keys, self.columns = tuple(keys), tuple(columns)
        self._sums: dict[int, np.ndarray] = {}

    def add(self, rows: Rows) -> None:
        """Add a chunk that has all keys and columns."""
        packed, inverse = np.unique(pack(rows, self.keys), return_inverse=True)
        for index, column in enumerate(self.columns):
            sums = np.bincount(inverse, weights=rows[column], minlength=len(packed))
            for key, value in zip(packed.tolist(), sums.tolist(), strict=True):
                self._sums.setdefault(key, np.zeros(len(self.columns)))[index] += value

    def table(self) -> Rows:
        """Keys and sums, one row a group, in the order of the keys."""
        order = sorted(self._sums)
        sums = np.array([self._sums[key] for key in order]).reshape(-1, len(self.columns))
        keys = unpack(np.array(order, np.int64), self.keys)
        return keys | {column: sums[:, index] for index, column in enumerate(self.columns)}


class Histograms:
    """Counts of positive values by keys, in bins of equal width on a logarithmic axis."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        self._packed, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []  # merged once they are as many as what there is

    def add(self, rows: Rows, values: np.ndarray) -> None:
        """Add `values` (n,) of a chunk; those that are not finite are left out."""
        finite = np.isfinite(values)
        bins = {"bin": bin_of(values[finite])}
        kept = {key: rows[key][finite] for key in self.keys}
        packed, counts = np.unique(pack(kept | bins, (*self.keys, "bin")), return_counts=True)
        self._waiting.append((packed, counts))
        if sum(len(packed) for packed, _ in self._waiting) > max(MERGED, len(self._packed)):
            self._merge()

    def of(self, **where: int) -> tuple[np.ndarray, np.ndarray]:
        """Bins (b,) and counts (b,) of the groups whose keys have these values, merged."""
        keys = self._unpacked()
        chosen = np.ones(len(self._packed), bool)
        for key, value in where.items():
            chosen &= keys[key] == value
        bins, inverse = np.unique(keys["bin"][chosen], return_inverse=True)
        return bins, np.bincount(inverse, weights=self._counts[chosen], minlength=len(bins)).astype(np.int64)

    def groups(self, *names: str) -> list[tuple[int, ...]]:
        """Which values the named keys take together."""
        keys = self._unpacked()
        return sorted(set(zip(*(keys[name].tolist() for name in names), strict=True)))

    def _unpacked(self) -> Rows:
        self._merge()
        return unpack(self._packed, (*self.keys, "bin"))

    def _merge(self) -> None:
        if not self._waiting:
            return
        packed, counts = zip((self._packed, self._counts), *self._waiting, strict=True)
        self._packed, inverse = np.unique(np.concatenate(packed), return_inverse=True)
        self._counts = np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)
        self._waiting = []

    def quantiles(self, levels: Sequence[float], **where: int) -> list[float]:
        """Quantiles of the groups, to half a bin; NaN where there is no value."""
        bins, counts = self.of(**where)
        if not len(bins):
            return [float("nan")] * len(levels)
        ranks = np.ceil(np.asarray(levels) * counts.sum()).clip(1)
        return list(map(float, middle(bins[np.searchsorted(np.cumsum(counts), ranks)])))


def bin_of(values: np.ndarray) -> np.ndarray:
    """The bin of each value, int64."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = (np.log10(np.maximum(values.astype(np.float64), 0)) - LOWEST) * STEPS
    return np.asarray(np.floor(place.clip(0, DECADES * STEPS)), np.int64)


def middle(bins: np.ndarray) -> np.ndarray:
    """The geometric middle of each bin; 0 for the lowest, which holds zeros too."""
    values: np.ndarray = np.where(bins == 0, 0.0, 10 ** (LOWEST + (bins + 0.5) / STEPS))
    return values


def pack(rows: Mapping[str, np.ndarray], keys: Iterable[str]) -> np.ndarray:
    """The keys of each row as one int64."""
    packed: np.ndarray | None = None
    for key in keys:
        shifted = rows[key].astype(np.int64) - _lowest(key)
        packed = shifted if packed is None else (packed << BITS[key]) | shifted
    assert packed is not None
    return packed


def unpack(packed: np.ndarray, keys: Sequence[str]) -> Rows:
    """What `pack` packed."""
    found = {}
    for key in reversed(keys):
        found[key] = (packed & ((1 << BITS[key]) - 1)) + _lowest(key)
        packed = packed >> BITS[key]
    return {key: found[key] for key in keys}


def _lowest(key: str) -> int:
    return NONE if key in ("epoch", "client") else 0
