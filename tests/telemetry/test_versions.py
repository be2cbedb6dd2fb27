"""Logs of every version are read, or one line says what is missing; the page of formats is the schema's."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.describe import renewed
from splitcom_dist.telemetry.hdf5 import RankLog, read
from splitcom_dist.telemetry.schema import SCHEMA_VERSION, TABLES, row_dtype
from splitcom_dist.telemetry.versions import ADDITIONS

PAGE = Path(__file__).parents[2] / "docs" / "file_formats.md"


def old_log(path: Path, version: int, without: dict[str, set[str]]) -> Path:
    """A log as version 1 to 4 wrote it, with three rows a table; `without` columns, or with {} no table."""
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update(schema_version=version, closed_cleanly=1, rank=0, role="client", config="")
        for table in TABLES:
            present = row_dtype(table)
            names = [name for name in present.names or () if name not in without.get(table, set())]
            kind = [(name, present[name]) for name in names]
            if without.get(table, {""}):
                file[table] = np.full(3, 7, np.dtype(kind)) if table == "traffic" else np.zeros(3, np.dtype(kind))
                file[table].attrs["rows"] = np.int64(2)
    return path


def test_the_first_version_is_read_with_what_it_lacks_filled_in(tmp_path: Path) -> None:
    lacks: dict[str, set[str]] = {"threshold": {"step", "state"}, "traffic": {"n_C"}, "gradients": set()}
    path = old_log(tmp_path / "old.h5", 1, lacks)
    traffic = read(path, "traffic")
    assert traffic.dtype == row_dtype("traffic") and len(traffic) == 2
    assert traffic["n_C"].tolist() == [0, 0] and traffic["wire"].tolist() == [7, 7]
    assert read(path, "threshold")["step"].tolist() == [-1, -1] and read(path, "threshold")["state"][0] == b""
    assert len(read(path, "gradients")) == 0


def test_what_a_version_should_have_and_lacks_is_named(tmp_path: Path) -> None:
    path = old_log(tmp_path / "x.h5", 3, {"traffic": {"n_C"}, "train": set()})
    with pytest.raises(UserError, match=r"x\.h5: table traffic has no column n_C, which logs of version 3 have"):
        read(path, "traffic")
    with pytest.raises(UserError, match=r"x\.h5: no table train"):
        read(path, "train")


def test_a_newer_version_and_no_version_are_refused_in_one_line(tmp_path: Path) -> None:
    RankLog(tmp_path / "a.h5", rank=0, role="client", config="").close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs.modify("schema_version", SCHEMA_VERSION + 1)
    with pytest.raises(UserError, match=f"schema version {SCHEMA_VERSION + 1}, this package reads 1 to"):
        read(tmp_path / "a.h5", "train")
    with h5py.File(tmp_path / "b.h5", "w", libver="latest") as file:
        file["train"] = np.zeros(3)
    with pytest.raises(UserError, match=r"b\.h5: no log of splitcom's"):
        read(tmp_path / "b.h5", "train")


def test_every_version_says_what_it_added() -> None:
    assert {added.version for added in ADDITIONS} == set(range(2, SCHEMA_VERSION + 1))
    for added in ADDITIONS:
        names = {column.name for column in TABLES.get(added.table, ())}
        assert added.name in names if added.name else added.table in TABLES or added.table == "kept"


def test_the_page_of_formats_is_the_schemas() -> None:
    page = PAGE.read_text()
    assert renewed(page) == page, "python -m splitcom_dist.telemetry.describe docs/file_formats.md"
    for columns in TABLES.values():
        assert all(f"| `{column.name}` |" in page for column in columns)


def test_the_page_of_formats_names_what_logs_and_run_directories_hold(tmp_path: Path) -> None:
    page = PAGE.read_text()
    RankLog(tmp_path / "a.h5", rank=0, role="client", config="").close()
    with h5py.File(tmp_path / "a.h5") as file:
        names = [*file.attrs, *file["train"].attrs, *(f"/{name}" for name in file)]
    assert [name for name in names if name not in page] == []
