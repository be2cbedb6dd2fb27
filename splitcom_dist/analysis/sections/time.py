"""Where time goes, rank by rank: over the run, and step by step in a window of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splitcom_dist.analysis.palette import PARTS as COLOURS
from splitcom_dist.analysis.palette import SURFACE, tip
from splitcom_dist.analysis.report import Column, Figure, Section, Table
from splitcom_dist.analysis.study import Study
from splitcom_dist.analysis.timing import PARTS

RANKS = 40  # most that are drawn
ORDER = {  # in a step
    "client": ("compute", "encode", "send", "wait", "decode", "average", "evaluate"),
    "server": ("wait", "decode", "compute", "encode", "send", "average", "evaluate"),
}


def time(studies: Sequence[Study]) -> Section | None:
    """None where no step has been made."""
    items = [figure for study in studies if study.totals.steps for figure in (_totals(study), _timeline(study))]
    text = (
        "Computing is what is left of a step's time without encoding, sending, decoding and waiting; averaging "
        "holds the wait for other ranks."
    )
    return Section("time", "Time", text, items) if items else None


def _drawn(study: Study) -> dict[int, np.ndarray]:
    return dict(list(study.timing.spent().items())[:RANKS])


def _totals(study: Study) -> Figure:
    spent = _drawn(study)
    names = [f"{rank} {study.timing.roles[rank]}" for rank in spent]

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        left, rows = np.zeros(len(spent)), np.arange(len(spent))
        for index, part in enumerate(PARTS):
            widths = np.array([parts[0, index] for parts in spent.values()])
            if not widths.any():
                continue
            bars = axes.barh(rows, widths, 0.66, left=left, color=COLOURS[part], edgecolor=SURFACE, lw=0.6, label=part)
            for bar, name, width in zip(bars, names, widths.tolist(), strict=True):
                tip(bar, f"rank {name}, {part}: {width:,.2f} s")
            left = left + widths
        axes.set_yticks(rows, names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="seconds of the run", ylabel="rank")
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=7)

    columns = [Column("rank"), Column("role"), *(Column(part, "s", 3) for part in PARTS)]
    rows = [[rank, study.timing.roles[rank], *parts[0].tolist()] for rank, parts in study.timing.spent().items()]
    name = f"time-{study.run.slug}"
    rest = f" The first {RANKS} of {len(rows)} ranks are drawn." if len(rows) > RANKS else ""
    caption = (
        "Seconds of each rank by what it did. Loading, start and checkpoints are not logged, so bars are shorter than "
        f"the run.{rest}"
    )
    data = Table(f"{name}-data", "Seconds by rank", columns, rows)
    return Figure(name, f"{study.run.name}: time of each rank", caption, draw, (10, 1.3 + 0.34 * len(spent)), data)


def _timeline(study: Study) -> Figure:
    spent, window = _drawn(study), study.timing.window
    longest = np.max([parts[1:].sum(1) for parts in spent.values()], axis=0)
    starts = np.concatenate([[0], np.cumsum(longest)])

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        for row, (rank, parts) in enumerate(spent.items()):
            for index, step in enumerate(window):
                at = starts[index]
                for part in ORDER.get(study.timing.roles[rank], PARTS):
                    width = float(parts[1 + index, PARTS.index(part)])
                    if width <= 0:
                        continue
                    bar = axes.barh(row, width, 0.7, left=at, color=COLOURS[part], edgecolor=SURFACE, lw=0.3)[0]
                    tip(bar, f"rank {rank}, step {step}, {part}: {1e3 * width:,.1f} ms")
                    at += width
        for start in starts:
            axes.axvline(start, color=COLOURS["evaluate"], lw=0.8, ls=":")
        axes.set_yticks(range(len(spent)), [f"{rank} {study.timing.roles[rank]}" for rank in spent])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=f"seconds, steps {window.start} to {window.stop - 1}", ylabel="rank", xlim=(0, starts[-1]))
        used = [part for part in PARTS if any(parts[1:, PARTS.index(part)].any() for parts in spent.values())]
        bars = [axes.barh(0, 0, color=COLOURS[part]) for part in used]
        canvas.legend(bars, used, loc="outside upper left", ncols=7)

    caption = (
        "Steps from the middle of the run. Durations are measured, places are not: logs hold no clock times, so every "
        "step begins for all ranks at a dotted line, as late as the slowest rank needs, and its parts stand in "
        "the order of the protocol. White: not logged, mostly waiting for the aggregator's verdict after an "
        "evaluation, or for the slowest rank."
    )
    name = f"timeline-{study.run.slug}"
    return Figure(name, f"{study.run.name}: timeline", caption, draw, (10, 1.3 + 0.34 * len(spent)))
