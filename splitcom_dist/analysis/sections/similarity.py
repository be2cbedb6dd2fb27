"""How far samples move from visit to visit: over epochs, by client, and as distributions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.groups import middle
from splitcom_dist.analysis.palette import (
    FLOOR,
    INK,
    LINKS,
    MARKERS,
    SERIES,
    logarithmic,
    shown_range,
    tip,
    whole_numbers,
)
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.study import Study
from splitcom_dist.links import LINKS as LINK_NAMES

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
NAMED = 8  # most clients with a colour of their own, and epochs with a line of theirs
MARKED = 20  # most points of a line that are marked one by one
LABELS = {
    "distance": "1 - cosine",
    "rel_l2_p50": "relative L2, median token",
    "rel_l2_p90": "relative L2, 90 % token",
    "rel_l2_max": "relative L2, largest token",
}


def similarity(studies: Sequence[Study]) -> Section | None:
    """None where nothing has been compared with a reference: no gate, or the first epoch."""
    compared = [study for study in studies if study.similarity.links]
    items: list[Figure | Table] = [_of_all_runs(compared)] if len(compared) > 1 else []
    for study in studies:
        if study.similarity.links:
            items += [_over_epochs(study), _distributions(study)]
            if any(len(study.similarity.clients(link)) > 1 for link in study.similarity.links):
                items.insert(-1, _by_client(study))
    text = (
        "A sample is compared with what the other end remembers of it, before it is decided whether it is sent again. "
        "On logarithmic axes of 1 - cosine, lower is more alike; a gate at threshold θ lets a sample pass unsent below "
        "1 - θ. Quantiles are right to 1.2 %."
    )
    return Section("similarity", "Similarity between visits", text, items) if items else None


def _over_epochs(study: Study) -> Figure:
    moved, links = study.similarity, study.similarity.links
    found = {
        link: [(epoch, moved.histograms["distance"].quantiles(LEVELS, link=link, epoch=epoch)) for epoch in epochs]
        for link in links
        if (epochs := moved.epochs(link))
    }

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            epochs = [epoch + 1 for epoch, _ in found[link]]
            p10, p25, p50, p75, p90 = np.maximum(np.array([values for _, values in found[link]]).T, FLOOR)
            colour = LINKS[link]
            axes.fill_between(epochs, p10, p90, color=colour, alpha=0.18, lw=0, label="10 to 90 %")
            axes.fill_between(epochs, p25, p75, color=colour, alpha=0.3, lw=0, label="25 to 75 %")
            axes.plot(epochs, p50, color=colour, marker="o", label="median")
            _threshold(axes, study, link)
            logarithmic(axes.yaxis, *shown_range(value for of in links for _, values in found[of] for value in values))
            axes.set(title=link_name(link), xlabel="epoch", ylabel="" if column else "1 - cosine")
            whole_numbers(axes.xaxis)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)

    columns = [Column("link"), Column("epoch"), *(Column(f"{100 * level:.0f} %", digits=6) for level in LEVELS)]
    rows: list[list[Value]] = [[link_name(link), epoch + 1, *values] for link in links for epoch, values in found[link]]
    name = f"similarity-{study.run.slug}"
    caption = (
        "1 - cosine of a sample to its reference, over the samples of all clients in each epoch. Samples below the "
        "dashed line (1 - θ, where the gate goes by cosine) need not be sent."
    )
    data = Table(f"{name}-data", "1 - cosine by link and epoch", columns, rows)
    return Figure(name, f"{study.run.name}: similarity over epochs", caption, draw, (10, 3.6), data)


def _threshold(axes: Any, study: Study, link: int) -> None:
    """The level 1 - θ in each epoch, where θ is a cosine."""
    steps, thetas = study.course.thresholds(link)
    if not len(steps) or not goes_by_cosine(study, link):
        return
    decided = dict(zip(study.course.decisions["epoch"][study.course.decisions["link"] == link], thetas, strict=True))
    epochs = [epoch for epoch in study.similarity.epochs(link) if epoch - 1 in decided]
    levels = [max(FLOOR, 1 - decided[epoch - 1]) for epoch in epochs]
    axes.step([epoch + 1 for epoch in epochs], levels, where="mid", color=INK, ls="--", lw=1.2, label="1 - θ")


def goes_by_cosine(study: Study, link: int) -> bool:
    """Whether the gate of a link compares cosines, and not relative errors."""
    settings = study.run.config.get("codec", {}).get(LINK_NAMES[link], {})
    return bool(settings.get("gate") == "cosine")


def _of_all_runs(studies: Sequence[Study]) -> Figure:
    links = sorted({link for study in studies for link in study.similarity.links})
    rows: list[list[Value]] = []
    for study in studies:
        for link in study.similarity.links:
            for epoch in study.similarity.epochs(link):
                (median,) = study.similarity.histograms["distance"].quantiles([0.5], link=link, epoch=epoch)
                rows.append([study.run.name, link_name(link), epoch + 1, median])

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            for index, study in enumerate(studies):
                points = [row for row in rows if row[:2] == [study.run.name, link_name(link)]]
                values = [max(FLOOR, float(row[3])) for row in points]
                style = {"color": SERIES[index % 8], "marker": MARKERS[index % 8], "label": study.run.name}
                (line,) = axes.plot([row[2] for row in points], values, **style)
                tip(line, study.run.name)
            logarithmic(axes.yaxis, *shown_range(row[3] for row in rows))
            whole_numbers(axes.xaxis)
            axes.set(title=link_name(link), xlabel="epoch", ylabel="" if column else "1 - cosine, median")
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)

    columns = [Column("run"), Column("link"), Column("epoch"), Column("median of 1 - cosine", digits=6)]
    caption = (
        "The median sample of each run and epoch. A codec that sends changes has a newer reference to compare with "
        "than one that skips, so levels tell how old references are as much as how fast a model moves."
    )
    data = Table("similarity-runs-data", "1 - cosine of all runs", columns, rows)
    return Figure("similarity-runs", "Similarity of all runs", caption, draw, (10, 3.4), data)


def _by_client(study: Study) -> Figure:
    moved, links = study.similarity, study.similarity.links
    rows: list[list[Value]] = []
    for link in links:
        for client in moved.clients(link):
            for epoch in moved.epochs(link):
                (median,) = moved.histograms["distance"].quantiles([0.5], link=link, epoch=epoch, client=client)
                rows.append([link_name(link), client, epoch + 1, median])

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            clients = moved.clients(link)
            for index, client in enumerate(clients):
                points = [row for row in rows if row[0] == link_name(link) and row[1] == client and row[3] == row[3]]
                colour = SERIES[index] if len(clients) <= NAMED else LINKS[link]
                (line,) = axes.plot(
                    [row[2] for row in points],
                    [max(FLOOR, float(row[3])) for row in points],
                    color=colour,
                    marker="o" if len(clients) <= NAMED and len(points) <= MARKED else "",
                    alpha=1 if len(clients) <= NAMED else 0.35,
                    label=f"client {client}",
                )
                tip(line, f"client {client}")
            logarithmic(axes.yaxis, *shown_range(row[3] for row in rows))
            axes.set(title=link_name(link), xlabel="epoch", ylabel="" if column else "1 - cosine, median")
            whole_numbers(axes.xaxis)
        if len(moved.clients(links[0])) <= NAMED:
            canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=8)

    columns = [Column("link"), Column("client"), Column("epoch"), Column("median of 1 - cosine", digits=6)]
    name = f"clients-{study.run.slug}"
    caption = (
        "The median of 1 - cosine over each client's samples: a client above the others has texts that drift more."
    )
    data = Table(f"{name}-data", "1 - cosine by client", columns, rows)
    return Figure(name, f"{study.run.name}: similarity by client", caption, draw, (10, 3.2), data)


def _some(epochs: Sequence[int]) -> list[int]:
    """The first, the last and some between."""
    places = np.linspace(0, len(epochs) - 1, min(len(epochs), NAMED))
    return [epochs[int(place)] for place in np.round(places)]


def _distributions(study: Study) -> Figure:
    moved, links = study.similarity, study.similarity.links

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(len(links), len(LABELS), squeeze=False, sharey="row")
        for line, link in enumerate(links):
            epochs = _some(moved.epochs(link))
            for axes, (measure, label) in zip(panels[line], LABELS.items(), strict=True):
                for index, epoch in enumerate(epochs):
                    bins, counts = moved.histograms[measure].of(link=link, epoch=epoch)
                    share = 100 * np.cumsum(counts) / counts.sum()
                    alpha = 0.3 + 0.7 * (index + 1) / len(epochs)
                    (drawn,) = axes.step(
                        np.maximum(middle(bins), FLOOR), share, where="post", color=LINKS[link], alpha=alpha, lw=1.4
                    )
                    tip(drawn, f"epoch {epoch + 1}")
                everywhere = moved.histograms[measure].quantiles([0.01, 1.0], link=link)
                logarithmic(axes.xaxis, *shown_range(everywhere), short=1.4)
                axes.set(ylim=(0, 101), xlabel=label if line == len(links) - 1 else "")
                axes.tick_params(axis="x", labelrotation=30)
            panels[line, 0].set(title=link_name(link), ylabel="samples below (%)")

    columns = [Column("link"), Column("epoch"), Column("measure"), Column("samples")]
    columns += [Column(f"{100 * level:.0f} %", digits=6) for level in LEVELS]
    rows: list[list[Value]] = []
    for link in links:
        for epoch in moved.epochs(link):
            for measure, label in LABELS.items():
                histogram = moved.histograms[measure]
                values = histogram.quantiles(LEVELS, link=link, epoch=epoch)
                count = int(histogram.of(link=link, epoch=epoch)[1].sum())
                rows.append([link_name(link), epoch + 1, label, count, *values])
    name = f"distributions-{study.run.slug}"
    caption = (
        f"Share of samples below a value, one line an epoch ({NAMED} of them where there are more), later epochs in "
        "stronger colour. Logs hold, for each sample, the cosine and quantiles of the relative L2 change of its "
        "tokens: the median and the 90 % token leave out outliers such as the first token, the largest shows them. "
        "Single tokens and channels are not logged here, so there is no split by massive channels."
    )
    data = Table(f"{name}-data", "Distributions by link and epoch", columns, rows)
    size = (10, 1.2 + 2.0 * len(links))
    return Figure(name, f"{study.run.name}: distributions of change", caption, draw, size, data)
