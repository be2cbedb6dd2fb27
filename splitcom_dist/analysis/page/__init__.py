"""The report as one file: every style, script, figure and number is in it."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import splitcom_dist
from splitcom_dist.analysis.palette import css
from splitcom_dist.analysis.report import Column, Section, Table, Value
from splitcom_dist.errors import UserError

FOLDER = Path(__file__).parent


def page(
    title: str,
    sections: Sequence[Section],
    drawings: Mapping[str, str],
    notes: Sequence[str],
    tiles: Sequence[tuple[str, str]] = (),
) -> str:
    """The HTML; `drawings` are SVG elements by the names of figures. Raises UserError without jinja2."""
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise UserError('splitcom analyze needs jinja2: pip install "splitcom-dist[analysis]"') from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["written"] = written
    environment.tests["numeric"] = lambda _, table, index: is_numeric(table, index)
    template = environment.from_string((FOLDER / "report.html.j2").read_text(encoding="utf-8"))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return template.render(
        title=title,
        subtitle=f"splitcom analyze, {now}",
        sections=sections,
        drawings={name: Markup(svg) for name, svg in drawings.items()},  # drawn here, labels escaped
        notes=notes,
        tiles=tiles,
        palette=Markup(css()),
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "report.js").read_text(encoding="utf-8")),
        version=splitcom_dist.__version__,
        made=now,
    )


def written(value: Value, column: Column) -> str:
    """A number as its column writes it; a dash where there is none."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "-"
    if column.digits is None:
        return f"{value:,}" if isinstance(value, int) and column.unit else str(value)
    sign = "+" if column.unit == "%" and column.name.startswith("against") else ""
    return f"{value:{sign},.{column.digits}f}"


def is_numeric(table: Table, index: int) -> bool:
    """Whether a column holds numbers."""
    return bool(table.rows) and not isinstance(table.rows[0][index], str)
