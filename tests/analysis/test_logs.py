"""Logs of any state are read, in chunks of any size, and what is missing is said."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from logged_run import EPOCHS, STEPS, write_run

from splitcom_dist.analysis import logs, traffic
from splitcom_dist.analysis.logs import chunks, open_run, open_runs, whole
from splitcom_dist.analysis.totals import totals_of
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.schema import TABLES

pytest_plugins = ("analysis_fixtures",)


def test_all_ranks_are_joined_whatever_the_chunks(root: Path) -> None:
    run = open_run(root)
    expected = sum(len(read(each.path, "traffic")) for each in run.ranks)
    assert expected == 4 * 2 * EPOCHS * STEPS
    for size in (1, 7, 1 << 18):
        parts = [rows["wire"] for _, rows in chunks(run, "traffic", ("wire",), size)]
        assert max(map(len, parts)) <= size
        assert np.concatenate(parts).tolist() == whole(run, "traffic", ("wire",))["wire"].tolist()
        assert sum(map(len, parts)) == expected
    assert not run.notes


def test_a_run_that_is_still_written_is_read_as_it_stood_when_it_was_opened(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "live", finished=False))
    assert not run.finished and "goes on or was killed" in run.notes[0] and "rank 0, 1, 2, 3" in run.notes[1]
    assert totals_of(run).steps == EPOCHS * STEPS
    done = totals_of(open_run(write_run(tmp_path / "done")))
    assert totals_of(run).links == done.links and totals_of(run).others == done.others


def test_rows_that_come_after_opening_are_left_out(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    run = open_run(root)
    before = len(whole(run, "eval", ("ppl",))["ppl"])
    with h5py.File(root / "telemetry/rank_00003.h5", "r+") as file:
        file["eval"].resize(before + 5, axis=0)
        kept = file["kept"][:]
        kept[list(TABLES).index("eval")] = before + 5
        file["kept"][:] = kept
    assert len(whole(run, "eval", ("ppl",))["ppl"]) == before
    assert len(whole(open_run(root), "eval", ("ppl",))["ppl"]) == before + 5


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    (root / "telemetry/rank_00001.h5").unlink()
    (root / "telemetry/rank_00002.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    run = open_run(root)
    assert [each.rank for each in run.ranks] == [0, 3]
    assert "rank_00002.h5 cannot be read" in run.notes[0] and "logs of 2 of 4 ranks are missing" in run.notes[1]


def test_logs_of_an_older_schema_are_read_without_the_columns_they_lack(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    for path in (root / "telemetry").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            rows = file["traffic"][:]
            del file["kept"], file["traffic"], file["gradients"]
            kept = [name for name in rows.dtype.names if name != "n_C"]
            file["traffic"] = rows[kept].astype([(name, rows.dtype[name]) for name in kept])
            file["traffic"].attrs["rows"] = len(rows)
            file.attrs["schema_version"] = 2
    run = open_run(root)
    totals = totals_of(run)
    assert run.summary is not None
    for link, counts in run.summary["links"].items():
        assert totals.links[link]["wire_bytes"] == counts["wire_bytes"] and totals.links[link]["C"] == 0
    assert any("keep no totals" in note for note in run.notes) and "logs of schema 2" in run.notes[0]
    run.summary = None
    assert totals_of(run).links == totals.links, "rows say what the summary says"
    assert "traffic.n_C came with schema 3; here 0: there were no such frames" in run.notes


def test_a_table_that_breaks_off_gives_what_is_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(write_run(tmp_path / "run"))
    original = logs._read

    def breaks(*arguments: object) -> object:
        for number, rows in enumerate(original(*arguments)):  # type: ignore[arg-type]
            if number == 2:
                raise OSError("wrong B-tree signature")
            yield rows

    monkeypatch.setattr(logs, "_read", breaks)
    sizes = [len(rows["wire"]) for _, rows in chunks(run, "traffic", traffic.COLUMNS, 5)]
    assert sizes == [5, 5] * 3
    assert "rank_00000.h5, traffic: cannot be read to its end: wrong B-tree signature" in run.notes


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path, root: Path) -> None:
    places = [tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/other"]
    for place in places:
        shutil.copytree(root, place)
    assert [run.name for run in open_runs(places)] == ["a/run", "b/run", "other"]
    assert open_runs([places[0] / "run.h5"])[0].name == "run"
    with pytest.raises(UserError, match="named twice"):
        open_runs([places[0], tmp_path / "b/../a/run"])
