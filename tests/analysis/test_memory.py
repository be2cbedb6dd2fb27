"""`splitcom analyze` reads logs that are larger than what it may hold."""

import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from splitcom_dist.config.files import load_config, to_yaml
from splitcom_dist.telemetry.hdf5 import KEPT, RankLog
from splitcom_dist.telemetry.schema import TABLES, row_dtype

GIGABYTES = 2.0  # of logs, at least
LIMIT = 2 << 30  # resident bytes at most; what a block takes does not depend on how many there are
EPOCHS, CLIENTS, K = 40, 8, 256
CONFIG = to_yaml(load_config([], ["codec=splitcom", f"train.epochs={EPOCHS}", f"telemetry.sketch={K}"]))


def write_large(root: Path) -> int:
    """A run directory of one client rank with so many rows about samples; returns the bytes of its log."""
    path = root / "telemetry" / "rank_00000.h5"
    path.parent.mkdir(parents=True)
    RankLog(path, rank=0, role="client", config=CONFIG, sketch=K).close()
    samples = int(GIGABYTES * 1e9 / EPOCHS / (row_dtype("sketch", K).itemsize + row_dtype("similarity").itemsize))
    counts = {"similarity": samples, "sketch": samples, "traffic": samples // 8, "train": samples // 8}
    with h5py.File(path, "r+", libver="latest") as file:
        for table, count in counts.items():
            file[table].resize(count * EPOCHS, axis=0)
            for epoch in range(EPOCHS):
                file[table][count * epoch : count * (epoch + 1)] = _rows(table, epoch, count)
        tables = [table for table in TABLES if table in file]
        file[KEPT][: len(tables)] = [counts.get(table, 0) * EPOCHS for table in tables]
    return path.stat().st_size


def _rows(table: str, epoch: int, count: int) -> np.ndarray:
    """One epoch: numbers of no meaning, but of the size and in the places of real ones."""
    random, number = np.random.default_rng(epoch), np.arange(count)
    rows = np.zeros(count, row_dtype(table, K))
    names = rows.dtype.names or ()
    for name in names:
        if rows[name].dtype.kind == "f":
            drawn = random.random(rows[name].shape, np.float32)
            rows[name] = 1 - 0.1 * drawn if name.startswith("cosine") else drawn
    known = {"step": epoch * count + number, "epoch": epoch, "client": number % CLIENTS, "sample": number}
    known |= {"tokens": 60, "wire": 1000, "raw_padded": 2000, "raw_real": 1500, "n_I": 60}
    if table == "train":
        known["client"] = -1  # as a server tells of all its clients together
    for name in known.keys() & set(names):
        rows[name] = known[name]
    return rows


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_log_larger_than_memory_may_be_is_analyzed(tmp_path: Path) -> None:
    size = write_large(tmp_path / "run")
    assert size >= GIGABYTES * 1e9
    command = [
        sys.executable,
        "-m",
        "splitcom_dist",
        "analyze",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "report"),
    ]
    done = subprocess.run([*command, "--export", "parquet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"log of {size / 1e9:.2f} GB analyzed with {peak / 1e6:,.0f} MB resident at most")
    assert peak < LIMIT
    assert (tmp_path / "report" / "figures" / "directions-run.svg").is_file()
    assert (tmp_path / "report" / "tables" / "run-sketch.parquet").stat().st_size > GIGABYTES * 1e8
