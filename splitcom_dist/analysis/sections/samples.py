"""The heat map: every sample in every epoch, how far it had moved and whether it was sent again."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.palette import BLUE, INK, PALE, logarithmic, whole_numbers
from splitcom_dist.analysis.report import Figure, Section
from splitcom_dist.analysis.study import Study


def samples(studies: Sequence[Study]) -> Section | None:
    """None where nothing has been compared with a reference."""
    items = [_heat_map(study, link) for study in studies for link in study.similarity.links]
    return Section("samples", "Samples over epochs", items=items) if items else None


def _heat_map(study: Study, link: int) -> Figure:
    names, epochs, grid = study.similarity.samples.of(link)
    borders = np.flatnonzero(np.diff(names["client"])) + 1
    present = np.unique(names["client"])

    def draw(canvas: Any) -> None:
        from matplotlib.colors import ListedColormap, LogNorm

        left, right = canvas.subplots(1, 2, sharey=True)
        positive = grid[0][grid[0] > 0]
        lowest, highest = np.quantile(positive, (0.01, 0.99)) if len(positive) else (1e-4, 1e-2)
        scale = LogNorm(lowest, max(highest, lowest * 1.01))
        extent = (epochs[0] + 0.5, epochs[-1] + 1.5, len(grid[0]), 0)
        place: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "extent": extent}
        image = left.imshow(_filled(grid[0], epochs, lowest), cmap="viridis", norm=scale, **place)
        bar = canvas.colorbar(image, ax=left, pad=0.02)
        logarithmic(bar.ax.yaxis, lowest, highest)
        right.imshow(_filled(grid[1], epochs, None), cmap=ListedColormap([PALE, BLUE]), vmin=0, vmax=1, **place)
        for axes in (left, right):
            axes.grid(visible=False)
            axes.hlines(borders, *extent[:2], color=INK, lw=0.8)
            axes.set(xlabel="epoch")
            whole_numbers(axes.xaxis)
        left.set(
            ylabel="samples, by client" if len(present) > 1 else "samples",
            title="1 - cosine to what the other end remembers",
        )
        right.set_title("blue: sent again; pale: not sent")
        if len(present) <= 20:
            edges = [0, *borders.tolist(), len(grid[0])]
            left.set_yticks([(a + b) / 2 for a, b in pairwise(edges)], present.tolist())

    few = "those shown are a random part of them; " if study.similarity.samples.are_some(link) else ""
    caption = (
        f"One line a sample ({few}{len(grid[0]):,} lines), sorted by client and, within one, by its median distance; "
        "one column an epoch. Left, dark is as before and bright has moved. Empty: nothing to compare with, as in "
        "the first epoch."
    )
    title = f"{study.run.name}: samples of {link_name(link)} over epochs"
    return Figure(f"samples-{study.run.slug}-{link}", title, caption, draw, (10, 4.6))


def _filled(grid: np.ndarray, epochs: np.ndarray, lowest: float | None) -> np.ndarray:
    """A column for every epoch between the first and the last, on which nothing may have been compared."""
    full = np.full((len(grid), epochs[-1] - epochs[0] + 1), np.nan, np.float32)
    full[:, epochs - epochs[0]] = grid if lowest is None else np.maximum(grid, lowest)
    return full
