"""What other programs get: the report's numbers with all digits, and every logged row, as CSV and as Parquet."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from drifting_run import write_drift

from splitcom_dist.analysis import export as exporting
from splitcom_dist.analysis.export import export
from splitcom_dist.analysis.logs import open_run
from splitcom_dist.analysis.report import Column, Section, Table
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read

TABLE = Table(
    "few", "A few", [Column("link"), Column("size", "MB"), Column("of")], [["up", 1.25, "all"], ["down", 2, 7]]
)
EMPTY = Table("none", "None", [Column("a"), Column("b")], [])
SECTION = Section("one", "One", items=[TABLE, EMPTY])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_and_rows_are_what_they_were(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "CHUNK_BYTES", 1000)  # several chunks
    values = np.random.default_rng(0).standard_normal((9, 2, 16))
    run = open_run(write_drift(tmp_path / "run", values))
    written = export([run], [SECTION], tmp_path / "tables", kind)
    assert [path.name for path in written] == [f"{name}.{kind}" for name in ("few", "none", "run-sketch")]
    load = pandas.read_csv if kind == "csv" else pandas.read_parquet
    few = load(tmp_path / "tables" / f"few.{kind}")
    assert list(few.columns) == ["link", "size (MB)", "of"] and few["size (MB)"].tolist() == [1.25, 2.0]
    assert few["of"].tolist() == ["all", "7"]
    assert list(load(tmp_path / "tables" / f"none.{kind}").columns) == ["a", "b"]
    rows, logged = load(written[-1]), read(run.ranks[0].path, "sketch")
    for name in ("step", "sample", "shared", "norm", "cosine", "rel_l2_target"):
        assert np.allclose(rows[name], logged[name], equal_nan=True), name
    if kind == "csv":
        assert "values" not in rows and "values_0" not in rows
        assert np.allclose(rows["rel_l2_position_4"], logged["rel_l2_position"][:, 4], equal_nan=True)
    else:
        assert np.array_equal(np.stack(rows["values"].tolist()), logged["values"])


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/tables: Not a directory"):
        export([], [SECTION], tmp_path / "file" / "tables", "csv")
