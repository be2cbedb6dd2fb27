"""Tables of any size in blocks: what a study reads of a log takes the memory of one block, not of the table."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import check_extent, check_sources, naming_damage, open_log, whole_rows
from splitcom_dist.telemetry.versions import came_later, in_present_columns, version_of

BLOCK_BYTES = 16 << 20


def blocks(
    path: Path, table: str, columns: Sequence[str] | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Flushed rows of a table of a rank's file or a joined run.h5, in order, as structured arrays.

    A block has as many whole rows of the table as `block_bytes` hold, however few `columns` of them are asked for:
    HDF5 reads whole rows. Raises UserError if the file is no log of ours, lacks the table, a column of it, or if
    run.h5 lacks a rank's file.
    """
    with open_log(path) as file, naming_damage(path):
        version = version_of(path, file.attrs)
        if table not in file and came_later(table, version):
            return
        dataset, rows = _table(file, path, table)
        step = max(1, block_bytes // dataset.dtype.itemsize)
        for start in range(0, rows, step):
            found = in_present_columns(path, table, np.asarray(dataset[start : min(start + step, rows)]), version)
            if columns is not None and (unknown := set(columns) - set(found.dtype.names or ())):
                raise UserError(f"{path}: table {table} has no column {sorted(unknown)[0]}")
            yield found if columns is None else found[list(columns)]


def row_count(path: Path, table: str) -> int:
    """How many rows of a table can be read. UserError where `blocks` raises it."""
    with open_log(path) as file, naming_damage(path):
        if table not in file and came_later(table, version_of(path, file.attrs)):
            return 0
        return _table(file, path, table)[1]


def sketch_length(path: Path) -> int:
    """Values of a logged sketch, 0 where the run logged none. UserError where `blocks` raises it."""
    with open_log(path) as file:
        dataset, rows = _table(file, path, "sketch")
        return int(dataset.dtype["values"].shape[0]) if rows else 0


def _table(file: h5py.File, path: Path, table: str) -> tuple[h5py.Dataset, int]:
    if table not in file:
        raise UserError(f"{path}: no table {table}")
    dataset, rows = file[table], whole_rows(file)[table]
    check_sources(path, dataset)
    if file.driver == "fileobj":  # not closed, so that nothing says how long it is
        check_extent(path, dataset, rows)
    return dataset, min(rows, dataset.shape[0])
