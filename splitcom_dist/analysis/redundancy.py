"""What the sketch table says in one pass: how much of what crosses was there at the visit before, and where."""

import numpy as np

from splitcom_dist.analysis.groups import Histograms, Sums
from splitcom_dist.analysis.logs import Rows, Run, chunks
from splitcom_dist.analysis.sketches import Sketches
from splitcom_dist.telemetry.hdf5 import sketch_length

PARTS = {
    "": "all",
    "_no_first": "without first position",
    "_no_massive": "without massive channels",
    "_neither": "without both",
}
BANDS = ("0", "1", *(f"{1 << power}-{(2 << power) - 1}" for power in range(1, 10)), "1024+")
SIDES = ("source", "target")
KEYS = ("epoch", "client", "link", "sample", "tokens", "shared", "norm", "energy_first", "energy_massive")
MEASURES = tuple(f"{measure}{part}" for measure in ("cosine", "rel_l2") for part in PARTS)
COLUMNS = (*KEYS, *MEASURES, *(f"rel_l2_{side}" for side in SIDES), "rel_l2_position", "values")
CHUNK_BYTES = 32 << 20


class Redundancy:
    """Histograms of the change since the visit before: `drift` by client, the others over all of them."""

    def __init__(self, run: Run, k: int) -> None:
        self.run, self.k = run, k
        self.sketches = Sketches(run, k)
        self.drift = {name: Histograms(("link", "epoch", "client")) for name in ("distance", "rel_l2")}
        self.parts = {name: Histograms(("link", "epoch")) for name in MEASURES}  # of cosines, 1 - cosine
        self.sides = {side: Histograms(("link", "epoch")) for side in SIDES}
        self.bands = {band: Histograms(("link", "epoch")) for band in BANDS}
        self._energy = Sums(("link", "epoch"), ("visits", "first", "massive"))
        self._prefix = Sums(("client",), ("samples", "tokens", "shared", "sharing"))

    def add(self, rows: Rows) -> None:
        for name, histogram in self.parts.items():
            histogram.add(rows, _measure(rows, name))
        self.drift["distance"].add(rows, _measure(rows, "cosine"))
        self.drift["rel_l2"].add(rows, rows["rel_l2"])
        for side, histogram in self.sides.items():
            histogram.add(rows, rows[f"rel_l2_{side}"])
        for index, band in enumerate(BANDS):
            self.bands[band].add(rows, rows["rel_l2_position"][:, index])
        shares = {name: np.nan_to_num(rows[f"energy_{name}"]) for name in ("first", "massive")}
        self._energy.add(rows | shares | {"visits": np.ones(len(rows["link"]))})
        told = np.isnan(rows["cosine"]) & (rows["shared"] >= 0) & (rows["link"] == 0)  # once a sample
        if told.any():
            shared = rows["shared"][told]
            counts = {"samples": np.ones(len(shared)), "shared": shared, "sharing": shared > 0}
            self._prefix.add({name: rows[name][told] for name in ("client", "tokens")} | counts)
        self.sketches.add(rows)

    @property
    def links(self) -> list[int]:
        return self.sketches.links

    def energy(self) -> Rows:
        """Mean share of the energy at the first position and in the massive channels, by link and epoch."""
        table = self._energy.table()
        return table | {name: table[name] / table["visits"] for name in ("first", "massive")}

    def prefix(self) -> Rows:
        """By client: samples, those that share a prefix with an earlier one, their positions, and shared ones."""
        return self._prefix.table()

    def cut(self, client: int) -> int:
        """Blocks before the cut of a client, as configured."""
        cuts = self.run.config.get("fed", {}).get("cut_layers")
        return int(cuts[client] if cuts else self.run.config["model"]["cut_layer"])


def redundancy_of(run: Run) -> Redundancy | None:
    """None where no sketches were logged, or none that this knows how to read."""
    lengths = {sketch_length(each.path) for each in run.ranks if each.rows.get("sketch")}
    if not lengths:
        return None
    k = max(lengths)
    found = Redundancy(run, k)
    for _, rows in chunks(run, "sketch", COLUMNS, max(1, CHUNK_BYTES // (113 + 2 * k))):
        found.add(rows)
    return found


def _measure(rows: Rows, name: str) -> np.ndarray:
    values = rows[name].astype(np.float64)
    return np.maximum(1 - values, 0) if name.startswith("cosine") else values
