"""Where each rank's time goes: computing, encoding, decoding, sending, waiting, averaging, evaluating."""

import numpy as np

from splitcom_dist.analysis.logs import RankFile, Rows, Run, whole

PARTS = ("compute", "encode", "send", "wait", "decode", "average", "evaluate")
STEPS = 6  # of the timeline
ALL = -1  # client of the row that stands for a server's whole step


class Timing:
    """Seconds by rank and part, over the run and in each step of a window in its middle."""

    def __init__(self, run: Run, steps: int) -> None:
        self.steps = steps
        first = max(0, steps // 2 - STEPS // 2)
        self.window = range(first, min(steps, first + STEPS))
        self._spent: dict[int, np.ndarray] = {}  # by rank: PARTS of the run, and of each step of the window
        self._turns: dict[int, np.ndarray] = {}  # the same of train rows by client, of use where no row stands for all
        self.roles = {each.rank: each.role for each in run.ranks}
        for each in run.ranks:
            alone = Run(run.name, run.root, run.config, [each], None)
            for table, part in (("rounds", "average"), ("eval", "evaluate")):
                rows = whole(alone, table, ("step", "seconds"))
                self._book(self._spent, each.rank, rows["step"], {part: rows["seconds"]})

    def add_training(self, rank: RankFile, rows: Rows) -> None:
        """`seconds` hold encoding, sending and decoding, too, until those are taken out."""
        combined = rows["client"] == ALL
        for chosen, books in ((combined, self._spent), (~combined, self._turns)):
            parts = {"compute": rows["seconds"][chosen], "wait": rows["wait"][chosen]}
            self._book(books, rank.rank, rows["step"][chosen], parts)

    def add_traffic(self, rank: RankFile, rows: Rows) -> None:
        sent = rows["side"] == 0
        parts = {"encode": rows["t_encode"][sent], "send": rows["t_send"][sent]}
        self._book(self._spent, rank.rank, rows["step"][sent], parts)
        self._book(self._spent, rank.rank, rows["step"][~sent], {"decode": rows["t_decode"][~sent]})

    def spent(self) -> dict[int, np.ndarray]:
        """Seconds (1 + w, PARTS) by rank: of the run, then of each step of the window."""
        found = {}
        for rank in sorted({*self._spent, *self._turns}):
            parts = self._spent.get(rank, self._nothing()).copy()
            if not parts[0, PARTS.index("compute")]:
                parts += self._turns.get(rank, self._nothing())
            inside = parts[:, [PARTS.index(name) for name in ("encode", "send", "decode")]].sum(1)
            parts[:, 0] = np.maximum(0, parts[:, 0] - inside)
            found[rank] = parts
        return found

    def _nothing(self) -> np.ndarray:
        return np.zeros((1 + len(self.window), len(PARTS)))

    def _book(self, books: dict[int, np.ndarray], rank: int, steps: np.ndarray, parts: Rows) -> None:
        spent = books.setdefault(rank, self._nothing())
        inside = (steps >= self.window.start) & (steps < self.window.stop)
        for name, seconds in parts.items():
            seconds = np.nan_to_num(seconds.astype(np.float64))
            spent[0, PARTS.index(name)] += seconds.sum()
            place = 1 + (steps[inside] - self.window.start)
            spent[:, PARTS.index(name)] += np.bincount(place, weights=seconds[inside], minlength=len(spent))
