"""Blocks of a table are its rows, of a rank's file and of a joined one; what is missing is named."""

from pathlib import Path

import numpy as np
import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.blocks import blocks, row_count
from splitcom_dist.telemetry.hdf5 import RankLog, read
from splitcom_dist.telemetry.join import join


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """run.h5 over two ranks of 2,500 rows each: more than a chunk."""
    for rank in range(2):
        with RankLog(tmp_path / f"rank_{rank:05d}.h5", rank=rank, role="client", config="") as log:
            for step in range(2500):
                values = {"epoch": 0, "participants": 2, "weight": 7.5, "bytes": 100 + rank}
                log.append("rounds", step=step, seconds=0.5, movement=0.1, **values)
    assert not join(tmp_path, tmp_path / "run.h5", 2)
    return tmp_path / "run.h5"


@pytest.mark.parametrize("block_bytes", [1, 999, 50_000, 1 << 20])
def test_blocks_together_are_the_table(block_bytes: int, run: Path) -> None:
    whole = read(run, "rounds")
    if block_bytes == 1:  # a row does not fit: one at a time
        first = next(iter(blocks(run, "rounds", block_bytes=1)))
        assert len(first) == 1 and first[0] == whole[0]
        return
    parts = list(blocks(run, "rounds", block_bytes=block_bytes))
    assert np.array_equal(np.concatenate(parts), whole) and row_count(run, "rounds") == 5000
    assert all(part.nbytes <= block_bytes for part in parts)


def test_only_the_columns_asked_for(run: Path) -> None:
    (part,) = blocks(run, "rounds", ["step", "bytes"])
    assert part.dtype.names == ("step", "bytes")
    assert part["bytes"].tolist() == [100] * 2500 + [101] * 2500


def test_what_is_missing_is_named(run: Path) -> None:
    for table, columns, mistake in (("nothing", None, "no table nothing"), ("rounds", ["stepp"], "no column stepp")):
        with pytest.raises(UserError, match=mistake):
            list(blocks(run, table, columns))
    (run.parent / "rank_00001.h5").unlink()
    with pytest.raises(UserError, match=r"rank_00001\.h5, which holds a rank's rows, is missing"):
        list(blocks(run, "rounds"))


def test_an_empty_table_has_no_blocks(run: Path) -> None:
    assert list(blocks(run, "eval")) == [] and row_count(run, "eval") == 0
