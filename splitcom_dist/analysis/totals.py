"""What a run came to, from its logs alone: bytes by link against both baselines, adapters, tokens, quality, time."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitcom_dist.analysis.groups import Sums
from splitcom_dist.analysis.logs import Run, chunks, whole
from splitcom_dist.links import LINKS
from splitcom_dist.telemetry.summary import COUNTS, OTHERS

COLUMNS = dict(zip(COUNTS, ("raw_padded", "raw_real", "wire", "n_I", "n_P", "n_S", "n_C"), strict=True))
SIZE = len(LINKS) * len(COUNTS) + len(OTHERS)


@dataclass
class Totals:
    """Bytes and positions of a whole run, over all clients, counted where they were sent."""

    links: dict[str, dict[str, int]] = field(default_factory=dict)  # by link, COUNTS
    others: dict[str, int] = field(default_factory=dict)  # OTHERS
    first_ppl: float = math.nan
    last_ppl: float = math.nan
    seconds: float = math.nan
    steps: int = 0

    @property
    def wire_bytes(self) -> int:
        """Everything that crossed."""
        links = sum(counts["wire_bytes"] for counts in self.links.values())
        return links + self.others["adapter_bytes"] + self.others["control_bytes"]

    def baseline(self, name: str) -> int:
        """`raw_padded_bytes` or `raw_real_bytes` of all links."""
        return sum(counts[name] for counts in self.links.values())


def totals_of(run: Run) -> Totals:
    """Add up every rank's own counts, as the run's summary does; from rows for logs that keep no counts."""
    found = Totals(others=dict.fromkeys(OTHERS, 0))
    counted = _kept_counts(run)
    if counted is None:
        run.note(f"these logs keep no totals: bytes are those of {'summary.json' if run.summary else 'the rows'}")
        found.links, found.others = _from_summary(run.summary) if run.summary else _from_rows(run)
    else:
        links = counted[: len(LINKS) * len(COUNTS)].reshape(len(LINKS), len(COUNTS))
        found.links = {
            name: dict(zip(COUNTS, row.tolist(), strict=True)) for name, row in zip(LINKS, links, strict=True) if row[0]
        }
        found.others = dict(zip(OTHERS, counted[links.size :].tolist(), strict=True))
    evaluations = whole(run, "eval", ("step", "ppl"))
    if len(evaluations["ppl"]):
        order = np.argsort(evaluations["step"], kind="stable")
        found.first_ppl, found.last_ppl = evaluations["ppl"][order[[0, -1]]].tolist()
    seconds: dict[int, float] = {}
    for each, rows in chunks(run, "train", ("step", "client", "seconds", "wait")):
        found.steps = max(found.steps, int(rows["step"].max()) + 1)
        spent = float((rows["seconds"] + rows["wait"])[rows["client"] == -1].sum())
        seconds[each.rank] = seconds.get(each.rank, 0.0) + spent
    found.seconds = run.summary["seconds"] if run.summary else max(seconds.values(), default=0.0) or math.nan
    return found


def _kept_counts(run: Run) -> np.ndarray | None:
    counted = np.zeros(SIZE, np.int64)
    for each in run.ranks:
        if len(each.counts) not in (0, SIZE):
            return None
        counted[: len(each.counts)] += each.counts
    return counted if counted.any() else None


def _from_summary(summary: dict[str, Any]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    links = {
        link: {name: counts.get(name, counts["frames"].get(name, 0)) for name in COUNTS}
        for link, counts in summary["links"].items()
    }
    return links, {name: summary.get(name, 0) for name in OTHERS}


def _from_rows(run: Run) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    sums, labels = Sums(("link",), (*COLUMNS.values(), "label")), 0
    for _, rows in chunks(run, "traffic", ("side", "link", "label", *COLUMNS.values())):
        sent = rows["side"] == 0
        sums.add({name: values[sent] for name, values in rows.items()})
        labels += int(rows["label"][sent].sum())
    table = sums.table()
    links = {
        LINKS[link]: {name: int(table[column][index]) for name, column in COLUMNS.items()}
        for index, link in enumerate(table["link"].tolist())
    }
    adapters = sum(int(whole(run, table, ("bytes",))["bytes"].sum()) for table in ("rounds", "gradients"))
    tokens = sum(int(rows["tokens"].sum()) for each, rows in chunks(run, "train", ("tokens",)) if each.role == "client")
    return links, {"label_bytes": labels, "adapter_bytes": adapters, "control_bytes": 0, "tokens": tokens}
