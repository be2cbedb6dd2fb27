"""Colours that differ for the colour-blind, in a light and a dark version, and how figures use them.

Figures are drawn in the light ones; in the page each becomes a variable that follows the reader's theme.
"""

import math
from collections.abc import Iterable
from typing import Any

INK, MUTED, GRID, SURFACE = "#1b1f24", "#59636e", "#e3e6ea", "#fefefe"
BLUE, ORANGE, GREEN, PINK = "#2463b8", "#cf5d07", "#12805a", "#b8347a"
PURPLE, TEAL, OCHRE, GREY, PALE = "#6f49bd", "#087f91", "#8f6b00", "#6c7682", "#cdd4dc"
SERIES = (BLUE, ORANGE, GREEN, PINK, PURPLE, TEAL, OCHRE, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")  # beside colours, for those who cannot tell them apart

DARK = {
    INK: "#e8ebef",
    MUTED: "#a2acb8",
    GRID: "#2f353d",
    SURFACE: "#14171b",
    BLUE: "#6fa8f5",
    ORANGE: "#f79a4b",
    GREEN: "#4cc794",
    PINK: "#ee7db6",
    PURPLE: "#b394f5",
    TEAL: "#43c4d6",
    OCHRE: "#dcb43c",
    GREY: "#97a2af",
    PALE: "#454e59",
}
VARIABLES = {colour: f"--c{index}" for index, colour in enumerate(DARK)}

KINDS = {"I": BLUE, "P": GREEN, "S": OCHRE, "C": PINK, "label": PURPLE, "other": GREY}
PARTS = {
    "compute": BLUE,
    "encode": GREEN,
    "send": ORANGE,
    "wait": PALE,
    "decode": TEAL,
    "average": PURPLE,
    "evaluate": OCHRE,
}
LINKS = (BLUE, ORANGE, GREEN, PINK)
FLOOR = 1e-8  # where a logarithmic axis of changes ends: what has not changed lies there

RC: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": SURFACE,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.dpi": 150,
}


def shown_range(values: Iterable[Any]) -> tuple[float, float]:
    """The lowest and the highest of these numbers, for a logarithmic axis."""
    shown = [max(FLOOR, float(value)) for value in values if value == value]
    return (min(shown), max(shown)) if shown else (FLOOR, 1.0)


def logarithmic(axis: Any, lowest: float, highest: float, short: float = 2.2) -> None:
    """A logarithmic axis with numbers as people write them, at 1, 2 and 5 up to `short` decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    decades = math.log10(max(highest, lowest * 1.01) / lowest)
    steps = [1.0] if decades > short else [1.0, 2.0, 5.0] if decades > 0.5 else [1.0, 1.5, *map(float, range(2, 10))]
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10f}".rstrip("0").rstrip(".")))
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def tip(artist: Any, text: str) -> None:
    """Let the page show `text` where the pointer rests on what is drawn."""
    artist.set_gid(f"tip:{text}")


def css() -> str:
    """The variables of both themes."""
    return "".join(f"{VARIABLES[light]}:light-dark({light},{dark});" for light, dark in DARK.items())
