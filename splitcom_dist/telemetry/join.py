"""run.h5: the logs of all ranks as one file, without copying a row."""

import json
from pathlib import Path

import h5py
import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import open_log, whole_rows
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, row_dtype
from splitcom_dist.telemetry.superblock import mark_closed


def join(telemetry: Path, out: Path, expected_ranks: int) -> list[str]:
    """Write `out`, whose tables are virtual datasets over `telemetry`/rank_*.h5, and return what is amiss.

    A virtual dataset fills a missing source with zeros and says nothing, so the counts of every rank are stored
    beside it, and each warning (missing rank, file not closed cleanly) in the attribute `warnings`.
    """
    sources, warnings = [], []
    for rank in range(expected_ranks):
        path = telemetry / f"rank_{rank:05d}.h5"
        try:
            with open_log(path) as file:
                rows = whole_rows(file)
                closed, role = int(file.attrs["closed_cleanly"]), str(file.attrs["role"])
                config = str(file.attrs["config"])
                sketch = file["sketch"].dtype["values"].shape[0] if "sketch" in file else 0
        except UserError as error:
            warnings.append(f"rank {rank} is missing: {error}")
            continue
        sources.append((path, rank, role, closed, rows))
        if not closed:
            warnings.append(f"rank {rank} ({role}) was not closed cleanly: its last step may be missing")
            mark_closed(path)  # else HDF5 would not let run.h5 have its rows
    with h5py.File(out, "w", libver="latest") as file:
        for table in TABLES:
            dtype = row_dtype(table, sketch if sources else 0)
            _join_table(file, table, dtype, [(path, rows.get(table, 0)) for path, _, _, _, rows in sources], out)
        ranks = [(rank, role, closed, json.dumps(rows)) for _, rank, role, closed, rows in sources]
        kind = np.dtype([("rank", "i4"), ("role", "S16"), ("closed_cleanly", "i1"), ("rows", "S256")])
        file["ranks"] = np.array(ranks, dtype=kind)
        file.attrs.update(schema_version=SCHEMA_VERSION, warnings=json.dumps(warnings))
        if sources:
            file.attrs["config"] = config
    return warnings


def _join_table(file: h5py.File, table: str, dtype: np.dtype, sources: list[tuple[Path, int]], out: Path) -> None:
    total = sum(rows for _, rows in sources)
    layout = h5py.VirtualLayout(shape=(total,), dtype=dtype)
    start = 0
    for path, rows in sources:
        if rows:
            relative = path.relative_to(out.parent)  # so that the run directory can be moved
            layout[start : start + rows] = h5py.VirtualSource(
                str(relative), table, shape=(rows,), dtype=dtype, maxshape=(None,)
            )
            start += rows
    dataset = file.create_virtual_dataset(table, layout) if total else file.create_dataset(table, (0,), dtype)
    dataset.attrs["units"] = json.dumps({column.name: column.unit for column in TABLES[table]})
    dataset.attrs["meaning"] = json.dumps({column.name: column.meaning for column in TABLES[table]})
    dataset.attrs["rows"] = np.int64(total)
