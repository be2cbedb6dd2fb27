"""Bytes that crossed, by link, epoch and client, by frame kind as far as packets tell, and up to each evaluation."""

from itertools import combinations

import numpy as np

from splitcom_dist.analysis.groups import Sums
from splitcom_dist.analysis.logs import RankFile, Rows, Run, whole

KINDS = ("I", "P", "S", "C")
BYTES = ("raw_padded", "raw_real", "wire", "label")
COUNTED = (*BYTES, "tokens", "n_I", "n_P", "n_S", "n_C")
COLUMNS = ("step", "epoch", "client", "link", "side", *COUNTED, "t_encode", "t_send", "t_decode")


class Traffic:
    """What was sent: rows of receivers are there to check senders, and left out."""

    def __init__(self, run: Run) -> None:
        self._sums = Sums(("link", "epoch", "client"), (*COUNTED, "packets"))
        self._normal: dict[tuple[int, int], np.ndarray] = {}  # by link and epoch: (4, 6) of X'X, X'y, y'y
        evaluations = whole(run, "eval", ("step", "ppl", "epoch"))
        order = np.argsort(evaluations["step"], kind="stable")
        self.evaluations: Rows = {name: values[order] for name, values in evaluations.items()}
        self._until = np.zeros((len(order) + 1, 3))  # bytes between evaluations: wire, padded, real
        self.adapter_bytes = 0  # with a step: those averaged, and gradients between servers
        for table in ("rounds", "gradients"):
            few = whole(run, table, ("step", "bytes"))
            self.adapter_bytes += int(few["bytes"].sum())
            np.add.at(self._until[:, 0], self._place(few["step"]), few["bytes"])

    def add(self, rank: RankFile, rows: Rows) -> None:
        sent = rows["side"] == 0
        if not sent.any():
            return
        rows = {name: values[sent] for name, values in rows.items()}
        self._sums.add(rows | {"packets": np.ones(len(rows["link"]))})
        place = self._place(rows["step"])
        for index, name in enumerate(("wire", "raw_padded", "raw_real")):
            self._until[:, index] += np.bincount(place, weights=rows[name], minlength=len(self._until))
        counts = np.stack([rows[f"n_{kind}"].astype(np.float64) for kind in KINDS], 1)
        size = (rows["wire"] - rows["label"]).astype(np.float64)
        keys, inverse = np.unique(np.stack([rows["link"], rows["epoch"]], 1), axis=0, return_inverse=True)
        for index, (link, epoch) in enumerate(keys.tolist()):
            x, y = counts[inverse == index], size[inverse == index]
            normal = np.column_stack([x.T @ x, x.T @ y, np.full(4, y @ y)])
            self._normal[link, epoch] = self._normal.get((link, epoch), 0) + normal

    def by(self, *keys: str) -> Rows:
        """Sums of COUNTED and `packets` by link, epoch or client, or several of them."""
        table = self._sums.table()
        merged = Sums(keys, (*COUNTED, "packets"))
        merged.add(table)
        return merged.table()

    def until_evaluations(self) -> np.ndarray:
        """Bytes up to each evaluation (e, 3): on the wire with adapters; raw padded and raw real of the links."""
        return np.cumsum(self._until[:-1], axis=0)

    def rates(self, link: int, epoch: int) -> tuple[np.ndarray, float, float]:
        """Bytes of a position I, P, S, C (4,), least squares over the packets of a link and epoch and none below 0;
        the sum of squares that it misses, and the sum of squares of the packets."""
        squares, mixed, total = np.hsplit(self._normal[link, epoch], (4, 5))
        mixed, whole = mixed[:, 0], float(total[0, 0])
        used = [index for index in range(4) if squares[index, index]]
        best, least = np.zeros(4), whole
        for count in range(1, len(used) + 1):
            for chosen in map(list, combinations(used, count)):
                scale = np.sqrt(np.diag(squares)[chosen])
                within = squares[np.ix_(chosen, chosen)]
                rates = np.linalg.lstsq(within / np.outer(scale, scale), mixed[chosen] / scale, rcond=1e-10)[0] / scale
                missed = float(whole - 2 * rates @ mixed[chosen] + rates @ within @ rates)
                if (rates >= 0).all() and missed < least - 1e-9 * whole:  # the fewest kinds that explain as much
                    best, least = np.zeros(4), missed
                    best[chosen] = rates
        return best, max(0.0, least), whole

    def missed(self, link: int) -> float:
        """By how much of a packet `rates` misses it on a link: root of mean squares, 0 to 1."""
        found = [self.rates(*key)[1:] for key in self._normal if key[0] == link]
        return float(np.sqrt(sum(missed for missed, _ in found) / max(1e-9, sum(whole for _, whole in found))))

    def apportioned(self) -> Rows:
        """Wire bytes by link and epoch: `label` and their sum `wire` as logged; I, P, S, C by `rates`, so
        scaled that each epoch's parts sum to its wire bytes; `other` where packets stand for no position."""
        table = self.by("link", "epoch")
        parts = np.zeros((len(table["link"]), 5))
        for row, (link, epoch) in enumerate(zip(table["link"].tolist(), table["epoch"].tolist(), strict=True)):
            counts = np.array([table[name][row] for name in ("n_I", "n_P", "n_S", "n_C")])
            guess = counts * self.rates(link, epoch)[0]
            rest = table["wire"][row] - table["label"][row]
            parts[row] = [*(guess * rest / guess.sum()), 0] if guess.sum() else [0, 0, 0, 0, rest]
        named = {name: parts[:, index] for index, name in enumerate((*KINDS, "other"))}
        return {name: table[name] for name in ("link", "epoch", "wire", "label")} | named

    def _place(self, steps: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.evaluations["step"], steps)
