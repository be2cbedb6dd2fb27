"""One HDF5 file a rank, readable while it is written and after the writer was killed (single writer, many readers)."""

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

import splitcom_dist
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.extent import READ_ERRORS, stretches
from splitcom_dist.telemetry.growing import ROWS, GrowingDataset
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, row_dtype
from splitcom_dist.telemetry.superblock import LogImage
from splitcom_dist.telemetry.versions import came_later, in_present_columns, version_of

CHUNK_ROWS, CHUNK_BYTES = 1024, 1 << 16  # at most: a flush writes its last chunk anew
# Dataset of how many rows of each table are whole, then of this rank's counts up to them, as `Ledger.totals` has them.
# It is one chunk, written last: a writer that is killed leaves it as it was, so rows and counts always agree.
KEPT = "kept"


class RankLog:
    """The open log of one rank. Rows wait in memory until `flush`, which a role calls once a step."""

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        role: str,
        config: str,
        sketch: int = 0,
        kept: Mapping[str, int] | None = None,
    ) -> None:
        """`sketch` values a sketch; `kept` rows of each table are taken over from the log that is there, of the run
        that goes on."""
        self.path = path
        totals = np.zeros(0, np.int64) if kept is None else read_kept(path)[1]
        self._totals: Callable[[], np.ndarray] = lambda: totals
        self._pending: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
        with self._naming_the_file():
            place = path if kept is None else path.with_suffix(".part")
            self._file = h5py.File(place, "x" if kept is None else "w", libver="latest")
            self._tables = {table: GrowingDataset(_create(self._file, table, sketch)) for table in TABLES}
            self._file.attrs.update(
                schema_version=SCHEMA_VERSION,
                package_version=splitcom_dist.__version__,
                rank=rank,
                role=role,
                config=config,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                closed_cleanly=0,
            )
            for table, rows in (kept or {}).items():
                self._take_over(table, rows)
            counts = self._file.create_dataset(KEPT, data=self._kept(), maxshape=(None,), dtype=np.int64, chunks=(128,))
            self._whole = GrowingDataset(counts)
            self._file.swmr_mode = True  # from here on nothing new can be created, only rows appended
            place.replace(path)

    def append(self, table: str, **row: Any) -> None:
        """Add one row; KeyError if a column is missing or unknown."""
        columns = self._tables[table].columns
        if len(row) > len(columns):
            raise KeyError(f"{table} has no column {min(row.keys() - set(columns))}")
        values = [row[column] for column in columns]
        self._pending[table].append(
            tuple([value.encode()[:232] if isinstance(value, str) else value for value in values])
        )

    def flush(self) -> None:
        """Write pending rows so that they survive this process. UserError, naming the file, if the disk refuses."""
        for table, rows in self._pending.items():
            if not rows:
                continue
            with self._naming_the_file():
                self._write(table, np.array(rows, dtype=self._tables[table].dtype))
            rows.clear()
        with self._naming_the_file():
            self._whole.replace(np.array(self._kept(), np.int64))

    def also_keep(self, totals: Callable[[], np.ndarray]) -> None:
        """Write this rank's totals so far, an int64 vector (n,), with every flush, so that they outlive it, too."""
        self._totals = totals

    def row_counts(self) -> dict[str, int]:
        """How many rows of each table are written."""
        return {table: dataset.count for table, dataset in self._tables.items()}

    def _kept(self) -> list[int]:
        return [*self.row_counts().values(), *self._totals().tolist()]

    def close(self) -> None:
        """Flush and mark the file as complete."""
        self.flush()
        with self._naming_the_file():
            self._file.attrs.modify("closed_cleanly", np.int64(1))
            self._file.close()

    def __enter__(self) -> "RankLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(UserError, OSError, RuntimeError):  # the first error is the one to tell
            self.flush()
            self._file.close()

    def _take_over(self, table: str, rows: int) -> None:
        """The first rows of the log that is there, some chunks at a time."""
        with open_log(self.path) as old:
            for start in range(0, rows, 64 * CHUNK_ROWS):
                self._write(table, old[table][start : min(start + 64 * CHUNK_ROWS, rows)])

    def _write(self, table: str, rows: np.ndarray) -> None:
        self._tables[table].append(rows)

    @contextlib.contextmanager
    def _naming_the_file(self) -> Any:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise UserError(f"{self.path}: cannot write: {' '.join(str(error).split())[:160]}") from None


def read(path: Path, table: str) -> np.ndarray:
    """All flushed rows of a table, of a rank's file or a joined run.h5, also while it is being written.

    Rows of older schema versions get the columns of today, as versions.py says. Raises UserError if the file is no log
    of ours, if rows of it are damaged or cut off, or if run.h5 lacks rows of a rank whose file is gone.
    """
    with open_log(path) as file, naming_damage(path):
        version = version_of(path, file.attrs)
        if table not in file and came_later(table, version):
            return np.zeros(0, row_dtype(table))
        dataset, rows = checked_table(file, path, table)
        return in_present_columns(path, table, np.asarray(dataset[:rows]), version)


def sketch_length(path: Path) -> int:
    """Values of a logged sketch, 0 where the run logged none. UserError where `read` raises it."""
    with open_log(path) as file, naming_damage(path):
        dataset, rows = checked_table(file, path, "sketch")
        return int(dataset.dtype["values"].shape[0]) if rows else 0


def checked_table(file: h5py.File, path: Path, table: str) -> tuple[h5py.Dataset, int]:
    """A table of an open log, and how many of its rows are whole and there. UserError or OSError where `read` says."""
    if table not in file:
        raise UserError(f"{path}: no table {table}")
    dataset, rows = file[table], whole_rows(file)[table]
    check_sources(path, dataset)
    if file.driver == "fileobj":  # not closed, so that nothing says how long it is
        check_extent(path, dataset, rows)
    return dataset, min(rows, dataset.shape[0])


def whole_rows(file: h5py.File) -> dict[str, int]:
    """How many rows of each table of an open log were written together with their counts.

    A killed writer may have grown a table beyond, with rows that are not filled or not counted.
    """
    tables = [table for table in TABLES if table in file]
    if KEPT in file:
        return dict(zip(tables, file[KEPT][: len(tables)].tolist(), strict=True))
    return {table: int(file[table].attrs[ROWS]) for table in tables}


def read_kept(path: Path) -> tuple[dict[str, int] | None, np.ndarray]:
    """How many rows of each table a log holds, and its rank's totals (n,) int64 up to them, n = 0 if it kept none;
    None if there is no log that can be read."""
    try:
        with open_log(path) as file:
            rows = whole_rows(file)
            return rows, np.asarray(file[KEPT][len(rows) :])
    except (UserError, KeyError):
        return None, np.zeros(0, np.int64)


def open_log(path: Path) -> h5py.File:
    """Open a log for reading, whether its writer closed it, still writes, or was killed. UserError if it cannot be."""
    if not path.is_file():
        raise UserError(f"{path}: no such log")
    with naming_damage(path):
        image = LogImage(path)
        if image.is_plain:
            image.close()
            return h5py.File(path, "r")
        if image.is_foreign:
            raise UserError(f"{path}: not a readable log: it is no HDF5 file")
        if image.damaged or image.is_cut:
            raise OSError(f"{image.size:,} of {image.length:,} bytes are there" if image.is_cut else "its first bytes")
        return h5py.File(image, "r")


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn what h5py says of a damaged file into one line that names it and the mend."""
    try:
        yield
    except READ_ERRORS as error:
        told = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: damaged ({told}): `splitcom log-repair {path}` saves what can be read") from None


def check_extent(path: Path, dataset: h5py.Dataset, rows: int) -> None:
    """Raise OSError if the first rows of a table are not all in the file."""
    missing = sum(each.stop - each.start - each.there for each in stretches(dataset, rows, path.stat().st_size))
    if missing:
        raise OSError(f"{missing:,} of {rows:,} rows of {dataset.name[1:]} are behind its end")


def _create(file: h5py.File, table: str, sketch: int) -> h5py.Dataset:
    dtype = row_dtype(table, sketch)
    chunk = max(1, min(CHUNK_ROWS, CHUNK_BYTES // dtype.itemsize))
    dataset = file.create_dataset(table, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(chunk,))
    dataset.attrs["units"] = json.dumps({column.name: column.unit for column in TABLES[table]})
    dataset.attrs["meaning"] = json.dumps({column.name: column.meaning for column in TABLES[table]})
    dataset.attrs[ROWS] = np.int64(0)
    return dataset


def check_sources(path: Path, dataset: h5py.Dataset) -> None:
    """Raise UserError if a file that holds rows of a joined table is gone: HDF5 would fill in zeros."""
    for name in (str(item.file_name) for item in dataset.virtual_sources()) if dataset.is_virtual else ():
        if not (path.parent / name).is_file():
            raise UserError(f"{path}: {name}, which holds a rank's rows, is missing")
