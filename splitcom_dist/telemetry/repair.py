"""A fresh log from what can be read of a damaged one, which stays beside it as `.broken`."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import KEPT
from splitcom_dist.telemetry.salvage import Piece, Salvage, salvage
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, row_dtype

BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Repaired:
    """What became of one log: (rows kept, rows it had) by table, and a line about each thing that is lost."""

    path: Path
    broken: Path | None  # where the original is; None: nothing was amiss and nothing was done
    rows: dict[str, tuple[int, int]]
    lost: list[str]


def repair(path: Path) -> Repaired:
    """Replace a rank's log by a fresh one with all rows that can be read, if it is not whole or was not closed.

    The fresh one is written aside and reaches the disk before it gets the name, so that a crash leaves one of both.
    Raises UserError if nothing can be read of it, and the log is as it was.
    """
    with salvage(path) as found:
        rows = {name: (len(found.pieces[name].rows), found.pieces[name].promised) for name in _tables(found)}
        lost = [*found.faults, *(line for name in found.pieces for line in _told(name, found))]
        if found.is_plain and found.is_whole:
            return Repaired(path, None, rows, lost)
        if not rows:
            raise UserError(f"{path}: nothing can be read of it: {'; '.join(lost)}")
        fresh = path.with_suffix(".part")
        try:
            _write(fresh, path, found, lost)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            broken = _free_name(path)
            os.link(path, broken)
            fresh.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise UserError(f"{path}: cannot write beside it: {' '.join(str(error).split())[:160]}") from None
    return Repaired(path, broken, rows, lost)


def _write(fresh: Path, path: Path, found: Salvage, lost: list[str]) -> None:
    version = int(found.attributes.get("schema_version", SCHEMA_VERSION))
    with h5py.File(fresh, "w", libver="latest") as file:
        file.attrs.update({"rank": _rank(path), "role": "unknown", "config": _config(path)} | found.attributes)
        file.attrs.update(schema_version=version, closed_cleanly=int(found.is_plain and not lost))
        file.attrs["repaired"] = json.dumps(lost)
        tables = [table for table in TABLES if table in found.names or table in found.pieces]
        for table in tables:
            piece = found.pieces.get(table) or Piece(np.zeros(0, row_dtype(table)), 0, [])
            kind = piece.rows.dtype
            dataset = file.create_dataset(table, (len(piece.rows),), kind, maxshape=(None,), chunks=(1024,))
            for start in range(0, len(piece.rows), BLOCK_ROWS):
                dataset[start : start + BLOCK_ROWS] = piece.rows[start : start + BLOCK_ROWS]
            dataset.attrs["units"] = json.dumps({column.name: column.unit for column in TABLES[table]})
            dataset.attrs["meaning"] = json.dumps({column.name: column.meaning for column in TABLES[table]})
            dataset.attrs["rows"] = np.int64(len(piece.rows))
        counts = [file[table].shape[0] for table in tables]
        file.create_dataset(KEPT, data=np.array([*counts, *_totals(found)], np.int64), maxshape=(None,), chunks=(128,))


def _tables(found: Salvage) -> list[str]:
    """Tables of which rows may have been read, in the order of the schema."""
    return [table for table in TABLES if table in found.pieces]


def _totals(found: Salvage) -> list[int]:
    """The rank's totals, where they are known and the tables before them are, too."""
    kept = found.pieces.get(KEPT)
    names = [table for table in TABLES if table in found.names]
    return [] if kept is None or kept.lost else kept.rows[len(names) :].tolist()


def _told(name: str, found: Salvage) -> list[str]:
    """One line a reason for rows that could not be read: how many, and which."""
    by_reason: dict[str, list[tuple[int, int]]] = {}
    for start, stop, reason in found.pieces[name].lost:
        by_reason.setdefault(reason, []).append((start, stop))
    return [
        f"{name}: {sum(stop - start for start, stop in places):,} rows of {found.pieces[name].promised:,}, "
        f"{', '.join(f'{start}-{stop - 1}' for start, stop in places[:4])}{' ...' if len(places) > 4 else ''}: {reason}"
        for reason, places in by_reason.items()
    ]


def _free_name(path: Path) -> Path:
    numbers = ["", *map(str, range(1, 1000))]
    return next(new for each in numbers if not (new := path.with_name(f"{path.name}.broken{each}")).exists())


def _rank(path: Path) -> int:
    match = re.search(r"rank_(\d+)", path.name)
    return int(match[1]) if match else -1


def _config(path: Path) -> str:
    config = path.parent.parent / "config.yaml"
    return config.read_text() if config.is_file() else ""
