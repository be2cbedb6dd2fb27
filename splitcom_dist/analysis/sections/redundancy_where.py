"""Figures of where in a sample change is: parts of its energy, and positions."""

from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.groups import Histograms, middle
from splitcom_dist.analysis.palette import FLOOR, LINKS, SERIES, logarithmic, shown_range, tip
from splitcom_dist.analysis.redundancy import BANDS, PARTS, Redundancy
from splitcom_dist.analysis.report import Column, Figure, Table, Value

LEVELS = (0.1, 0.5, 0.9)
QUANTILES = [Column("10 %", digits=6), Column("median", digits=6), Column("90 %", digits=6)]
MEASURES = {"cosine": "1 - cosine", "rel_l2": "relative L2"}


def by_part(each: Redundancy) -> Figure:
    """Distributions with and without the first position and the massive channels."""
    links = [link for (link,) in each.parts["rel_l2"].groups("link")]

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(len(links), 2, squeeze=False)
        for line, link in enumerate(links):
            for axes, (measure, label) in zip(panels[line], MEASURES.items(), strict=True):
                for index, (part, named) in enumerate(PARTS.items()):
                    bins, counts = each.parts[f"{measure}{part}"].of(link=link)
                    share = 100 * np.cumsum(counts) / max(1, counts.sum())
                    style = {"color": SERIES[index], "ls": ("-", "--", "-.", ":")[index], "lw": 1.5}
                    (drawn,) = axes.step(np.maximum(middle(bins), FLOOR), share, where="post", label=named, **style)
                    tip(drawn, named)
                everywhere = each.parts[measure].quantiles([0.01, 1.0], link=link)
                logarithmic(axes.xaxis, *shown_range(everywhere))
                axes.set(ylim=(0, 101), title=link_name(link), xlabel=label, ylabel="visits below (%)")
                axes.tick_params(axis="x", labelrotation=30)
        canvas.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4)

    columns = [Column("link"), Column("measure"), Column("part"), *QUANTILES]
    rows: list[list[Value]] = [
        [link_name(link), label, named, *each.parts[f"{measure}{part}"].quantiles(LEVELS, link=link)]
        for link in links
        for measure, label in MEASURES.items()
        for part, named in PARTS.items()
    ]
    caption = (
        "Share of visits below a value, against the visit before, over all epochs but a sample's first. The first "
        "position and the 4 massive channels can hold so much of the energy that they alone decide."
    )
    name = f"parts-{each.run.slug}"
    data = Table(f"{name}-data", "Change with and without what dwarfs the rest", columns, rows)
    title = f"{each.run.name}: change without first position and massive channels"
    return Figure(name, title, caption, draw, (9, 1.0 + 2.4 * len(links)), data)


def by_position(each: Redundancy) -> Figure:
    """Relative L2 by band of positions, of source and of target."""
    links = [link for (link,) in each.parts["rel_l2"].groups("link")]
    places: dict[str, Histograms] = each.bands | each.sides
    found = {
        link: {place: each_one.quantiles(LEVELS, link=link) for place, each_one in places.items()} for link in links
    }

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(1, len(links), squeeze=False, sharey=True)[0]
        for column, (axes, link) in enumerate(zip(panels, links, strict=True)):
            shown = [place for place in places if np.isfinite(found[link][place][1])]
            values = np.maximum([found[link][place] for place in shown], FLOOR)
            bands = sum(place in BANDS for place in shown)
            axes.errorbar(
                range(bands),
                values[:bands, 1],
                [values[:bands, 1] - values[:bands, 0], values[:bands, 2] - values[:bands, 1]],
                color=LINKS[link],
                marker="o",
                capsize=2,
            )
            for index in range(bands, len(shown)):
                low, median, high = values[index]
                error = [[median - low], [high - median]]
                axes.errorbar(index + 0.5, median, error, color=LINKS[link], marker="s", capsize=2, ls="")
            axes.set_xticks([*range(bands), *(index + 0.5 for index in range(bands, len(shown)))], shown, rotation=45)
            axes.set(title=link_name(link), xlabel="position", ylabel="" if column else "relative L2")
        values = [value for of_link in found.values() for quantiles in of_link.values() for value in quantiles]
        logarithmic(panels[0].yaxis, *shown_range(values))

    columns = [Column("link"), Column("positions"), *QUANTILES]
    rows: list[list[Value]] = [
        [link_name(link), place, *values] for link in links for place, values in found[link].items()
    ]
    caption = (
        "Relative L2 change since the visit before of the positions of a sample that lie in a band, taken together: "
        "median over visits, and 10 to 90 %. Squares: all source positions (the first among them), and all at which "
        "a target is predicted, where the sender knows which they are."
    )
    name = f"positions-{each.run.slug}"
    data = Table(f"{name}-data", "Change by position", columns, rows)
    return Figure(name, f"{each.run.name}: change by position", caption, draw, (9, 3.6), data)
