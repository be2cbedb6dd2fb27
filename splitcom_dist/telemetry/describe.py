"""Writes the tables of docs/file_formats.md: `python -m splitcom_dist.telemetry.describe docs/file_formats.md`."""

import re
import sys
from pathlib import Path

import numpy as np

from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, Column
from splitcom_dist.telemetry.versions import ADDITIONS

BEGIN, END = "<!-- from telemetry/schema.py: begin -->\n", "<!-- from telemetry/schema.py: end -->\n"


def describe() -> str:
    """Every table with its columns, and what older versions lack, as Markdown."""
    parts = [f"Schema version {SCHEMA_VERSION}.\n"]
    for table, columns in TABLES.items():
        lines = [f"### /{table}\n", "| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{each.name}` | {_type(each)} | {each.unit} | {_cell(each.meaning)} |" for each in columns]
        parts.append("\n".join(lines) + "\n")
    lines = ["### Older versions\n", "| logs before version | lack | and are read as |", "| --- | --- | --- |"]
    lines += [
        f"| {each.version} | `/{each.table}{f'.{each.name}' if each.name else ''}` | {_cell(each.meaning)} |"
        for each in ADDITIONS
    ]
    return "\n".join([*parts, *lines]) + "\n"


def renewed(page: str) -> str:
    """The page with the part between its two marks written anew. ValueError if it has no such part."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs one line {BEGIN.strip()} and one {END.strip()}")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{describe()}\n{END}", page, flags=re.DOTALL)


def _type(column: Column) -> str:
    kind = np.dtype(column.dtype)
    name = f"text, {kind.itemsize} bytes (UTF-8)" if kind.kind == "S" else kind.name
    shape = getattr(column, "shape", ())
    return f"{name} x {shape[0]}" if shape else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_text(renewed(place.read_text()))
