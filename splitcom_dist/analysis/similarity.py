"""How far activations and gradients move from visit to visit: distributions by link, epoch and client, and samples."""

import numpy as np

from splitcom_dist.analysis.groups import Histograms, Sums
from splitcom_dist.analysis.logs import RankFile, Rows

MEASURES = ("distance", "rel_l2_p50", "rel_l2_p90", "rel_l2_max")  # distance: 1 - cosine
COLUMNS = ("epoch", "client", "link", "sample", "cosine", "rel_l2_p10", *MEASURES[1:], "sent")
SAMPLES = 2048  # most samples of a link that are followed one by one


class Similarity:
    """Histograms of each measure, and how often a sample was sent again."""

    def __init__(self) -> None:
        keys = ("link", "epoch", "client")
        self.histograms = {name: Histograms(keys if name == "distance" else keys[:2]) for name in MEASURES}
        self._decisions = Sums(("link", "epoch", "client"), ("compared", "sent"))
        self.samples = Samples()

    def add(self, rank: RankFile, rows: Rows) -> None:
        distance = np.maximum(1 - rows["cosine"].astype(np.float64), 0)
        for name, histogram in self.histograms.items():
            histogram.add(rows, distance if name == "distance" else rows[name])
        self._decisions.add(rows | {"compared": np.ones(len(distance)), "sent": rows["sent"].astype(np.float64)})
        self.samples.add(rows, distance)

    @property
    def links(self) -> list[int]:
        return [link for (link,) in self.histograms["distance"].groups("link")]

    def epochs(self, link: int) -> list[int]:
        return [epoch for at, epoch in self.histograms["distance"].groups("link", "epoch") if at == link]

    def clients(self, link: int) -> list[int]:
        return [client for at, client in self.histograms["distance"].groups("link", "client") if at == link]

    def decisions(self) -> Rows:
        """How many samples were compared, and how many sent again, by link, epoch and client."""
        return self._decisions.table()


class Samples:
    """Distance and decision of each sample in each epoch; of more than SAMPLES, those with the smallest hashes."""

    def __init__(self) -> None:
        self._kept: dict[int, Rows] = {}
        self._below: dict[int, int] = {}  # by link: samples with smaller hashes are kept

    def add(self, rows: Rows, distance: np.ndarray) -> None:
        hashes = sample_hash(rows["client"], rows["sample"])
        columns = {name: rows[name].astype(np.int64) for name in ("epoch", "client", "sample", "sent")}
        columns |= {"hash": hashes, "distance": distance.astype(np.float32)}
        for link in np.unique(rows["link"]).tolist():
            chosen = (rows["link"] == link) & (hashes < self._below.get(link, 1 << 62))
            fresh = {name: values[chosen] for name, values in columns.items()}
            if link in self._kept:
                fresh = {name: np.concatenate([self._kept[link][name], values]) for name, values in fresh.items()}
            known = np.unique(fresh["hash"])
            if len(known) > SAMPLES:
                self._below[link] = int(known[SAMPLES])
                under = fresh["hash"] < known[SAMPLES]
                fresh = {name: values[under] for name, values in fresh.items()}
            self._kept[link] = fresh

    def are_some(self, link: int) -> bool:
        """Whether there are more samples than are followed."""
        return link in self._below

    def of(self, link: int) -> tuple[Rows, np.ndarray, np.ndarray]:
        """The samples' `client` and `sample` (s,), by client and then by median distance, the epochs (e,), and their
        distance and decision (2, s, e); NaN where a sample had no reference to be compared with."""
        rows = self._kept[link]
        keys, row = np.unique(rows["hash"], return_inverse=True)
        epochs, column = np.unique(rows["epoch"], return_inverse=True)
        grid = np.full((2, len(keys), len(epochs)), np.nan, np.float32)
        grid[0, row, column], grid[1, row, column] = rows["distance"], rows["sent"]
        first = np.unique(rows["hash"], return_index=True)[1]
        names = {name: rows[name][first] for name in ("client", "sample")}
        order = np.lexsort((np.nanmedian(grid[0], axis=1), names["client"]))
        return {name: values[order] for name, values in names.items()}, epochs, grid[:, order]


def sample_hash(client: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """62 bits that differ for different samples and are spread evenly (the finalizer of splitmix64)."""
    value = (client.astype(np.uint64) << np.uint64(40)) ^ sample.astype(np.uint64)
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)
