"""Logged sketches of some samples at some epochs, as many as a fixed amount of memory holds."""

from dataclasses import dataclass

import numpy as np

from splitcom_dist.analysis.logs import Rows, Run
from splitcom_dist.analysis.similarity import sample_hash

BYTES = 64 << 20  # of a link's sketches
EPOCHS = 48  # most that are compared with each other
SAMPLES = 1024  # most of a link


@dataclass(frozen=True)
class Visits:
    """Sketches of one link: samples s, epochs e, values k; NaN where a sample was not there."""

    epochs: np.ndarray  # (e,), ascending
    norm: np.ndarray  # (s, e) float32
    values: np.ndarray  # (s, e, k) float16, each of length 1 or so
    chosen: bool  # whether there were more samples

    def rows(self, column: int) -> np.ndarray:
        """Sketches at one epoch (s, k), as long as the samples are."""
        scaled: np.ndarray = self.values[:, column].astype(np.float64) * self.norm[:, column, None]
        return scaled


class Sketches:
    """Of each link the samples with the smallest hashes, at epochs evenly spread over the run."""

    def __init__(self, run: Run, k: int) -> None:
        epochs = int(run.config.get("train", {}).get("epochs", EPOCHS))
        self.epochs = np.unique(np.linspace(0, epochs - 1, min(epochs, EPOCHS)).round().astype(np.int64))
        self.most = int(np.clip(BYTES // (2 * k * len(self.epochs)), 16, SAMPLES))
        self._parts: dict[int, list[Rows]] = {}
        self._known: dict[int, np.ndarray] = {}  # by link: hashes of the samples that are kept, ascending
        self._below: dict[int, int] = {}

    def add(self, rows: Rows) -> None:
        """A chunk with epoch, client, link, sample, norm and values."""
        hashes, here = sample_hash(rows["client"], rows["sample"]), np.isin(rows["epoch"], self.epochs)
        for link in np.unique(rows["link"]).tolist():
            chosen = (rows["link"] == link) & here & (hashes < self._below.get(link, 1 << 62))
            if not chosen.any():
                continue
            part = {name: rows[name][chosen] for name in ("epoch", "norm", "values")} | {"hash": hashes[chosen]}
            self._parts.setdefault(link, []).append(part)
            known = np.union1d(self._known.get(link, np.zeros(0, np.int64)), part["hash"])
            if len(known) > self.most:
                self._below[link], known = int(known[self.most]), known[: self.most]
                self._drop(link)
            self._known[link] = known

    @property
    def links(self) -> list[int]:
        return sorted(self._parts)

    def of(self, link: int) -> Visits:
        rows = {name: np.concatenate([part[name] for part in self._parts[link]]) for name in self._parts[link][0]}
        samples, row = np.unique(rows["hash"], return_inverse=True)
        epochs, column = np.unique(rows["epoch"], return_inverse=True)
        values = np.full((len(samples), len(epochs), rows["values"].shape[1]), np.nan, np.float16)
        norm = np.full(values.shape[:2], np.nan, np.float32)
        values[row, column], norm[row, column] = rows["values"], rows["norm"]
        return Visits(epochs, norm, values, link in self._below)

    def _drop(self, link: int) -> None:
        """Forget rows of samples that are no longer among those with the smallest hashes."""
        for part in self._parts[link]:
            kept = part["hash"] < self._below[link]
            if not kept.all():
                part |= {name: values[kept] for name, values in part.items()}
