"""A log with rows in every table, some of them in several chunks, as a rank writes one."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np

from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.schema import TABLES, row_dtype

MANY = {"traffic": 3000, "similarity": 5000}
FEW = 40  # rows of every other table
FORK = multiprocessing.get_context("fork")


def example_rows() -> dict[str, np.ndarray]:
    """Random rows by table: their bytes, without zeros, tell them from what HDF5 makes up."""
    generator = np.random.default_rng(0)
    rows = {}
    for table in TABLES:
        dtype, count = row_dtype(table), MANY.get(table, FEW)
        letters = generator.integers(65, 90, count * dtype.itemsize, np.uint8)
        rows[table] = np.frombuffer(letters.tobytes(), dtype)
    return rows


def write_log(path: Path, *, rank: int = 0, kill: bool = False) -> dict[str, np.ndarray]:
    """Write it, in another process that is killed at its end if so asked, and return its rows."""
    rows = example_rows()
    process = FORK.Process(target=_write, args=(path, rank, rows, kill))
    process.start()
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if kill else 0)
    return rows


def _write(path: Path, rank: int, rows: dict[str, np.ndarray], kill: bool) -> None:
    log = RankLog(path, rank=rank, role="client", config="train: {lr: 1}\n")
    log.also_keep(lambda: np.arange(32))
    for part in range(10):
        for table, values in rows.items():
            for row in values[len(values) * part // 10 : len(values) * (part + 1) // 10]:
                log.append(table, **{name: row[name] for name in values.dtype.names or ()})
        log.flush()
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    log.close()
    os._exit(0)
