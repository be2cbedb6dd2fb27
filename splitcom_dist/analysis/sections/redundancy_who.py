"""Figures of whose samples change: by client, and by the depth of the cut."""

from collections.abc import Sequence
from typing import Any

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.palette import FLOOR, LINKS, MARKERS, SERIES, logarithmic, shown_range, tip, whole_numbers
from splitcom_dist.analysis.redundancy import Redundancy
from splitcom_dist.analysis.report import Column, Figure, Table, Value
from splitcom_dist.analysis.sections.redundancy_where import LEVELS, QUANTILES


def by_client(each: Redundancy) -> Figure:
    """The median change of each client's samples, by epoch."""
    drift = each.drift["distance"]
    groups = drift.groups("link", "client", "epoch")
    rows: list[list[Value]] = [
        [link_name(link), client, epoch + 1, *drift.quantiles(LEVELS, link=link, client=client, epoch=epoch)]
        for link, client, epoch in groups
    ]
    links = sorted({link for link, _, _ in groups})

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            clients = sorted({client for at, client, _ in groups if at == link})
            for index, client in enumerate(clients):
                mine = [row for row in rows if row[:2] == [link_name(link), client]]
                style = (
                    {"color": SERIES[index], "marker": "o"}
                    if len(clients) <= 8
                    else {"color": LINKS[link], "alpha": 0.35}
                )
                medians = [max(FLOOR, float(row[4])) for row in mine]
                (line,) = axes.plot([row[2] for row in mine], medians, label=f"client {client}", **style)
                tip(line, f"client {client}")
            axes.set(title=link_name(link), xlabel="epoch", ylabel="" if column else "1 - cosine, median")
            whole_numbers(axes.xaxis)
            logarithmic(axes.yaxis, *shown_range(row[4] for row in rows))
            if len(clients) <= 8 and not column:
                canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=8)

    name = f"client-visits-{each.run.slug}"
    caption = "Median of 1 - cosine between a visit of a sample and the one before, over each client's samples."
    columns = [Column("link"), Column("client"), Column("epoch"), *QUANTILES]
    data = Table(f"{name}-data", "1 - cosine to the visit before, by client", columns, rows)
    return Figure(name, f"{each.run.name}: change by client", caption, draw, (9, 3.2), data)


def by_cut(found: Sequence[Redundancy]) -> Figure | None:
    """Change against the depth of the cut, over runs and clients; None where all are cut at one depth."""
    rows: list[list[Value]] = []
    for each in found:
        drift = each.drift["distance"]
        for link, client in drift.groups("link", "client"):
            values = drift.quantiles(LEVELS, link=link, client=client)
            rows.append([each.run.name, link_name(link), client, each.cut(client), *values])
    if len({row[3] for row in rows}) < 2:
        return None
    links = sorted({link for each in found for (link,) in each.drift["distance"].groups("link")})

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            for index, each in enumerate(found):
                mine = [row for row in rows if row[:2] == [each.run.name, link_name(link)]]
                medians = [max(FLOOR, float(row[5])) for row in mine]
                style = {"color": SERIES[index % 8], "marker": MARKERS[index % 8], "ls": ""}
                axes.plot([row[3] for row in mine], medians, label=each.run.name, **style)
            logarithmic(axes.yaxis, *shown_range(row[5] for row in rows))
            axes.set(title=link_name(link), xlabel="blocks before the cut")
            axes.set_ylabel("" if column else "1 - cosine, median")
            whole_numbers(axes.xaxis)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)

    columns = [Column("run"), Column("link"), Column("client"), Column("cut", "blocks"), *QUANTILES]
    caption = (
        "1 - cosine between a visit of a sample and the one before, one mark a client, against how many blocks the "
        "client has, as configured. Runs that differ in more than the cut differ here for that, too."
    )
    data = Table("cuts-data", "1 - cosine to the visit before, by cut", columns, rows)
    return Figure("cuts", "Change by depth of the cut", caption, draw, (9, 3.4), data)
