"""What every version of the log schema added, and rows of older ones in the present columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, row_dtype


@dataclass(frozen=True)
class Addition:
    """`name` is a column of `table`, or "" for the table itself; older logs are read as if they had `filler` there."""

    version: int
    table: str
    name: str
    filler: Any
    meaning: str


ADDITIONS = (
    Addition(2, "threshold", "step", -1, "-1: not known, it was the last of its epoch"),
    Addition(2, "threshold", "state", b"", "empty: not known"),
    Addition(3, "traffic", "n_C", 0, "0: there were no such frames"),
    Addition(4, "gradients", "", None, "no rows: there was one server"),
    Addition(5, "kept", "", None, "row counts are those of the tables' attribute `rows`; totals are not known"),
    Addition(6, "sketch", "", None, "no rows: sketches were not logged"),
    Addition(6, "rounds", "movement", np.nan, "NaN: not known"),
)


def version_of(path: Path, attributes: Any) -> int:
    """The schema version of an open log's attributes. UserError if this package cannot read it."""
    if "schema_version" not in attributes:
        raise UserError(f"{path}: no log of splitcom's: it has no attribute schema_version")
    version = int(attributes["schema_version"])
    if not 1 <= version <= SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, this package reads 1 to {SCHEMA_VERSION}: update splitcom-dist"
        )
    return version


def addition(table: str, name: str, version: int) -> Addition | None:
    """What logs of `version` rightly lack: a column, or with "" a table."""
    found = [each for each in ADDITIONS if (each.table, each.name) == (table, name) and each.version > version]
    return found[0] if found else None


def came_later(table: str, version: int) -> bool:
    """Whether logs of this version lack a table rightly."""
    return addition(table, "", version) is not None


def in_present_columns(path: Path, table: str, rows: np.ndarray, version: int) -> np.ndarray:
    """Rows of a log of `version` with the columns of today, those it lacks filled as ADDITIONS say.

    UserError if it lacks a column that its version has.
    """
    present = row_dtype(table)
    if rows.dtype.names == present.names:
        return rows
    fields: Any = rows.dtype.fields or {}
    kinds = [(column.name, fields.get(column.name, (present[column.name],))[0]) for column in TABLES[table]]
    found = np.zeros(len(rows), np.dtype(kinds))
    for name, _ in kinds:
        if name in fields:
            found[name] = rows[name]
        elif added := addition(table, name, version):
            found[name] = added.filler
        else:
            raise UserError(f"{path}: table {table} has no column {name}, which logs of version {version} have")
    return found
