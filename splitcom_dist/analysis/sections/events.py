"""Where each client was cut over time, and everything else that happened."""

import datetime
from collections.abc import Sequence
from typing import Any

from splitcom_dist.analysis.logs import text_of
from splitcom_dist.analysis.palette import SERIES, tip, whole_numbers
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.study import Study

SHOWN = 2000  # most events of a run in the table


def events(studies: Sequence[Study]) -> Section | None:
    """None where nothing happened."""
    items: list[Figure | Table] = []
    for study in studies:
        if study.course.cuts:
            items.append(_cuts(study))
        if len(study.course.events["step"]):
            items.append(_table(study))
    return Section("events", "Cuts and events", items=items) if items else None


def _cuts(study: Study) -> Figure:
    clients = sorted({cut.client for cut in study.course.cuts})

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        for index, client in enumerate(clients):
            of = [cut for cut in study.course.cuts if cut.client == client]
            shift = 0.24 * (index / max(1, len(clients) - 1) - 0.5)  # so that equal cuts are seen beside each other
            steps = [*(cut.step + 1 for cut in of), max(study.totals.steps, of[-1].step + 1)]
            blocks = [cut.blocks + shift for cut in of]
            (line,) = axes.step(steps, [*blocks, blocks[-1]], where="post", color=SERIES[index % 8])
            axes.plot(steps[:-1], blocks, "o", ms=4, color=line.get_color())
            line.set_label(f"client {client}")
            tip(line, f"client {client}")
        whole_numbers(axes.yaxis)
        axes.set(xlabel="steps trained", ylabel="blocks at the client")
        whole_numbers(axes.xaxis)
        axes.margins(x=0.01, y=0.15)
        if len(clients) <= 16:
            canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=8)

    columns = [Column("client"), Column("step"), Column("blocks at the client"), Column("reason")]
    rows: list[list[Value]] = [[cut.client, cut.step, cut.blocks, cut.reason] for cut in study.course.cuts]
    moves = len(rows) - len(clients)
    caption = (
        f"The cut of each client, in blocks that the client holds; {moves or 'no'} "
        f"{'move' if moves == 1 else 'moves'} in this run. Lines lie a little apart so that equal cuts can be told."
    )
    name = f"cuts-{study.run.slug}"
    data = Table(f"{name}-data", "Cuts", columns, rows)
    return Figure(name, f"{study.run.name}: where clients are cut", caption, draw, (10, 2.8), data)


def _table(study: Study) -> Table:
    found = study.course.events
    rows: list[list[Value]] = [
        [_clock(time), int(step), text_of(kind), text_of(text)]
        for time, step, kind, text in zip(*(found[name][:SHOWN] for name in found), strict=True)
    ]
    count = len(found["step"])
    caption = f"The first {SHOWN:,} of {count:,}." if count > SHOWN else ""
    columns = [Column("time, UTC"), Column("step"), Column("kind"), Column("what happened")]
    return Table(f"events-{study.run.slug}", f"{study.run.name}: events", columns, rows, caption)


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
