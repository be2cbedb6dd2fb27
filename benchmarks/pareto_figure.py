"""The figure of benchmarks/pareto.py: perplexity against bytes, a panel for each task and shape."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
from pareto_data import TASKS
from pareto_points import FRONT, FROZEN_VIDEO, SHAPES
from pareto_runs import Cell, title
from pareto_tables import GOAL, front

ROWS = [task for task in TASKS if task.epochs == 10]
# Colours of Okabe and Ito, which people who confuse red and green can tell apart.
MARKS = {
    "none": ("X", "#000000"),
    "FP16": ("+", "#000000"),
    "INT8": ("x", "#000000"),
    "frozen": ("s", "#0072B2"),
    "SplitCom": ("v", "#009E73"),
    "SplitCom INT8": ("^", "#009E73"),
    "AQ-SGD": ("D", "#E69F00"),
    "SplitLite": ("P", "#CC79A7"),
    "TAH-Quant": ("p", "#56B4E9"),
    "video": ("o", "#D55E00"),
    "video, rests": ("h", "#D55E00"),
    FROZEN_VIDEO: ("s", "#D55E00"),
}
BYTES_TICKS = [digit * scale for scale in (0.1, 1, 10, 100) for digit in (1, 2, 5)]
LOSS_TICKS = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
HOLLOW = ("video, rests",)


def draw(panels: Mapping[tuple[str, str], Sequence[Cell]], stem: Path) -> None:
    """Write `stem`.png and .svg; `panels` by task and shape, those without cells stay empty."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"  # text as text: a small file
    figure, grid = pyplot.subplots(len(ROWS), len(SHAPES), figsize=(11, 12), layout="constrained", squeeze=False)
    handles: dict[str, object] = {}
    for task, axes_row in zip(ROWS, grid, strict=True):
        for shape, axes in zip(SHAPES, axes_row, strict=True):
            handles |= panel(axes, panels.get((task.name, shape), []))
            axes.set_ylabel("perplexity above codec none, %")
            axes.set_xlabel("all bytes, % of real-token FP16")
    ordered = {name: handles[name] for name in [*MARKS, "front of video", f"{GOAL} %"] if name in handles}
    figure.legend(ordered.values(), ordered.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(stem.with_suffix(".png"), dpi=150)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    pyplot.close(figure)


def panel(axes: "matplotlib.axes.Axes", cells: Sequence[Cell]) -> dict[str, object]:
    """Draw one; returns what its legend names."""
    if not cells:
        axes.set_axis_off()
        return {}
    axes.set_title(title(cells), fontsize=9)
    handles: dict[str, object] = {}
    for cell in cells:
        mark, colour = MARKS[cell.point.method]
        handles[cell.point.method] = axes.errorbar(
            cell.share, cell.loss, yerr=deviation(cell.ratios), xerr=deviation([each.share for each in cell.results]),
            marker=mark, color=colour, markerfacecolor="white" if cell.point.method in HOLLOW else colour,
            markersize=7, linestyle="none", elinewidth=0.7, alpha=0.9, zorder=3,
        )  # fmt: skip
    curve = front([cell for cell in cells if cell.point.method in FRONT])
    if curve:
        shares, losses = [cell.share for cell in curve], [cell.loss for cell in curve]
        (handles["front of video"],) = axes.plot(shares, losses, color="#D55E00", linewidth=1.2, zorder=2)
    handles[f"{GOAL} %"] = axes.axhline(GOAL, color="grey", linestyle=":", linewidth=1)
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=2.0)  # what matters lies within 2 %, rivals may lie far above
    axes.margins(0.06, 0.08)
    axes.autoscale_view()
    for axis, ticks in ((axes.xaxis, BYTES_TICKS), (axes.yaxis, LOSS_TICKS)):
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in ticks if low <= tick <= high], minor=False)
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.grid(which="major", alpha=0.25)
    return handles


def deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
