"""Numbers of a report as files for other programs: its tables, and every row about samples, as CSV or Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from splitcom_dist.analysis.logs import Rows, Run, chunks
from splitcom_dist.analysis.report import Figure, Section, Table
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import sketch_length
from splitcom_dist.telemetry.schema import row_dtype

FORMATS = ("csv", "parquet")
ROWS = ("similarity", "sketch")  # tables with a row a sample and visit
CHUNK_BYTES = 16 << 20


def export(runs: Sequence[Run], sections: Sequence[Section], folder: Path, kind: str) -> list[Path]:
    """Write every table and figure's numbers, and of each run the tables ROWS, into `folder`; returns the files.

    Raises UserError if the folder cannot be written.
    """
    items = [item.data if isinstance(item, Figure) else item for section in sections for item in section.items]
    tables = [item for item in items if item is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_stream(iter([_few(table)]), folder / f"{table.name}.{kind}") for table in tables]
        for run in runs:
            for name in ROWS:
                if run.has(name):
                    written.append(export_rows(run, name, folder / f"{run.slug}-{name}.{kind}"))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; name a folder that can be written") from None
    return written


def export_rows(run: Run, table: str, path: Path) -> Path:
    """All rows of a table of a run's logs, some at a time. In CSV an entry of several values is as many columns; the
    `values` of sketches are in Parquet only."""
    lengths = [sketch_length(each.path) for each in run.ranks if each.rows.get("sketch")]
    dtype = row_dtype(table, max(lengths, default=0))
    names = [name for name in dtype.names or () if path.suffix == ".parquet" or name != "values"]
    parts = (rows for _, rows in chunks(run, table, names, max(1, CHUNK_BYTES // dtype.itemsize)))
    batches = (_batch(rows, lists=path.suffix == ".parquet") for rows in parts)
    return _stream(batches, path)


def _few(table: Table) -> pa.RecordBatch:
    """Columns are named with their units; one that holds texts is text throughout."""
    columns: dict[str, pa.Array] = {}
    for index, column in enumerate(table.columns):
        values = [row[index] for row in table.rows]
        texts = [str(value) for value in values]
        name = f"{column.name} ({column.unit})" if column.unit else column.name
        columns[name] = pa.array(texts if any(isinstance(value, str) for value in values) else values)
    return pa.record_batch(columns)


def _batch(rows: Rows, lists: bool) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {}
    for name, values in rows.items():
        if values.ndim == 1:
            columns[name] = pa.array(np.ascontiguousarray(values))
        elif lists:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            columns |= {f"{name}_{index}": pa.array(part.astype(np.float32)) for index, part in enumerate(values.T)}
    return pa.record_batch(columns)


def _stream(batches: Iterator[pa.RecordBatch], path: Path) -> Path:
    first = next(batches)
    writer = (
        pa.parquet.ParquetWriter(path, first.schema, use_dictionary=False)  # figures hardly repeat
        if path.suffix == ".parquet"
        else pa.csv.CSVWriter(path, first.schema)
    )
    with writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    return path
