"""What a report is made of: sections of figures and tables, each of which stands for itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.figure

Value = str | int | float


@dataclass(frozen=True)
class Column:
    """`digits` behind the point for numbers; None writes them as they are."""

    name: str
    unit: str = ""
    digits: int | None = None


@dataclass(frozen=True)
class Table:
    """Rows of values, which readers sort by any column and save as CSV with all digits."""

    name: str  # of letters, digits and hyphens, unique in a report
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    folded: bool = False  # shown on request


@dataclass(frozen=True)
class Figure:
    """A drawing, what one sees in it, and the numbers it shows."""

    name: str  # of letters, digits and hyphens, unique in a report: its file is figures/<name>.svg and .png
    title: str
    caption: str
    draw: Callable[["matplotlib.figure.Figure"], object]  # onto an empty figure of this size, with colours of `palette`
    size: tuple[float, float] = (10.0, 3.6)  # inches
    data: Table | None = None


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    text: str = ""
    items: Sequence[Figure | Table] = field(default_factory=list)


def slug(*parts: object) -> str:
    """A name of letters, digits and hyphens."""
    text = "-".join(map(str, parts)).lower()
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).split())
