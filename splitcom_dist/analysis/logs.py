"""The logs of one run, of all its ranks, read in chunks: finished, running or killed."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from splitcom_dist.analysis.report import slug
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.extent import READ_ERRORS
from splitcom_dist.telemetry.hdf5 import KEPT, open_log, whole_rows
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES
from splitcom_dist.telemetry.versions import addition, version_of

CHUNK_ROWS = 1 << 18
Rows = dict[str, np.ndarray]  # columns of one table by name, equally long


@dataclass(frozen=True)
class RankFile:
    """One rank's log as it stood when it was opened: rows that come later are not looked at, so that all agree."""

    path: Path
    rank: int
    role: str
    closed: bool
    rows: dict[str, int]
    counts: np.ndarray  # totals of its rank up to these rows, as `Ledger.totals` has them; empty if it keeps none


@dataclass
class Run:
    """One run directory. `notes` collects what a reader of its figures must know: ranks missing, columns not logged."""

    name: str
    root: Path
    config: dict[str, Any]
    ranks: list[RankFile]
    summary: dict[str, Any] | None  # summary.json, of a run that has ended
    notes: list[str] = field(default_factory=list)

    @property
    def slug(self) -> str:
        """Its name in names of figures."""
        return slug(self.name)

    @property
    def finished(self) -> bool:
        return self.summary is not None

    def has(self, table: str) -> bool:
        return any(each.rows.get(table, 0) for each in self.ranks)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def open_runs(roots: Sequence[Path]) -> list[Run]:
    """Every run, named by as much of its path as tells it from the others. Raises UserError."""
    roots = [root.parent if root.name == "run.h5" else root for root in roots]
    places = [root.resolve() for root in roots]
    if doubled := [root for root, place in zip(roots, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"{doubled[0]}: named twice")
    above = Path(os.path.commonpath([place.parent for place in places]))
    short = [place.name for place in places]
    names = [
        name if short.count(name) == 1 else str(place.relative_to(above))
        for name, place in zip(short, places, strict=True)
    ]
    return [open_run(root, name) for root, name in zip(roots, names, strict=True)]


def open_run(root: Path, name: str | None = None) -> Run:
    """Find the logs of a run directory. Raises UserError if there is none that can be read."""
    paths = sorted((root / "telemetry").glob("rank_*.h5"))
    if not paths:
        raise UserError(f"{root}: no telemetry/rank_*.h5 in it; name a directory that `splitcom train` made")
    ranks, notes, text = [], [], ""
    for path in paths:
        try:
            with open_log(path) as file:
                rows = whole_rows(file)
                counts = file[KEPT][len(rows) :] if KEPT in file else np.zeros(0, np.int64)
                closed, role = bool(file.attrs["closed_cleanly"]), str(file.attrs["role"])
                ranks.append(RankFile(path, int(file.attrs["rank"]), role, closed, rows, counts))
                text, version = str(file.attrs["config"]), int(file.attrs["schema_version"])
        except (UserError, *READ_ERRORS) as error:
            notes.append(f"{path.name} cannot be read and is left out: {' '.join(str(error).split())[:160]}")
            continue
        if version != SCHEMA_VERSION:
            notes.append(f"logs of schema {version}, while this is {SCHEMA_VERSION}")
    if not ranks:
        raise UserError(f"{root}: none of its {len(paths)} logs can be read: {notes[0]}")
    summary = _summary(root / "summary.json")
    notes = list(dict.fromkeys(notes))
    run = Run(name or root.resolve().name, root, yaml.safe_load(text), ranks, summary, notes)
    if summary is None:
        run.note("no summary.json: the run goes on or was killed, and these are the rows flushed so far")
    if summary is not None and (missing := len(summary["ranks"]) - len(ranks)):
        run.note(f"logs of {missing} of {len(summary['ranks'])} ranks are missing: sums over rows lack them")
    if open_ones := [each.rank for each in ranks if not each.closed]:
        run.note(f"not closed cleanly: rank {', '.join(map(str, open_ones))}; the last step may be missing")
    return run


def chunks(run: Run, table: str, columns: Sequence[str], size: int = CHUNK_ROWS) -> Iterator[tuple[RankFile, Rows]]:
    """The rows of one table, rank by rank, at most `size` at once; texts as bytes.

    A column that an older log lacks is filled as `telemetry.versions` says, which is noted; so is where a damaged
    file can be read no further.
    """
    for each in run.ranks:
        count = each.rows.get(table, 0)
        if not count:
            continue
        try:
            with open_log(each.path) as file:
                missing = set(columns) - set(file[table].dtype.names)
                fillers = _fillers(run, table, missing, version_of(each.path, file.attrs))
                yield from ((each, rows) for rows in _read(file[table], columns, fillers, count, size))
        except (UserError, *READ_ERRORS) as error:
            run.note(f"{each.path.name}, {table}: cannot be read to its end: {' '.join(str(error).split())[:160]}")


def whole(run: Run, table: str, columns: Sequence[str]) -> Rows:
    """All rows of a table that has few: evaluations, decisions, events, averagings."""
    parts = [rows for _, rows in chunks(run, table, columns)]
    if not parts:
        return {name: np.zeros(0, column.dtype) for column in TABLES[table] if (name := column.name) in columns}
    return {name: np.concatenate([rows[name] for rows in parts]) for name in columns}


def text_of(value: bytes) -> str:
    """A text column's value."""
    return value.decode(errors="replace")


def _fillers(run: Run, table: str, missing: set[str], version: int) -> dict[str, Any]:
    """What stands in place of the columns that logs of this version do not have."""
    found = {name: added for name in missing if (added := addition(table, name, version))}
    for name, added in found.items():
        run.note(f"{table}.{name} came with schema {added.version}; here {added.meaning}")
    return {name: added.filler for name, added in found.items()}


def _read(
    dataset: h5py.Dataset, columns: Sequence[str], fillers: dict[str, Any], count: int, size: int
) -> Iterator[Rows]:
    there = [name for name in columns if name not in fillers]
    for start in range(0, min(count, dataset.shape[0]), size):
        rows = dataset.fields(there)[start : min(start + size, count)]
        yield {name: rows[name] if name in there else np.full(len(rows), fillers[name]) for name in columns}


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a summary: {error}") from None
