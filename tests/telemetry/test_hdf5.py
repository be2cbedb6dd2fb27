"""Logs survive their writer, can be read while written, and never lie about how much they hold."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import RankLog, read, read_kept
from splitcom_dist.telemetry.join import join
from splitcom_dist.telemetry.schema import TABLES, row_dtype

FORK = multiprocessing.get_context("fork")


def row(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 0, "participants": 2, "weight": 7.5, "bytes": 100, "seconds": 0.5, "movement": 0.1}


def open_log(folder: Path, rank: int = 0) -> RankLog:
    folder.mkdir(exist_ok=True)
    return RankLog(folder / f"rank_{rank:05d}.h5", rank=rank, role="client", config="train: {lr: 1}\n")


def write_then(path: Path, steps: int, end: str) -> None:
    """In a process of its own: flush `steps` rows, leave one unflushed, and come to an end."""
    log = open_log(path)
    for step in range(steps):
        log.append("rounds", **row(step))
        log.flush()
    log.append("rounds", **row(99))
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    log.close()
    os._exit(0)


@pytest.mark.parametrize(("end", "rows"), [("kill", 5), ("close", 6)])
def test_every_flushed_row_survives_the_writer(end: str, rows: int, tmp_path: Path) -> None:
    process = FORK.Process(target=write_then, args=(tmp_path, 5, end))
    process.start()
    process.join()
    found = read(tmp_path / "rank_00000.h5", "rounds")
    assert len(found) == rows and found["step"][:5].tolist() == [0, 1, 2, 3, 4]
    warnings = join(tmp_path, tmp_path / "run.h5", 1)
    assert bool(warnings) == (end == "kill") and all("not closed cleanly" in text for text in warnings)


def test_rows_can_be_read_while_the_writer_is_at_work(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for step in range(3):
            log.append("rounds", **row(step))
            log.flush()
            reader = FORK.Process(target=lambda: os._exit(len(read(log.path, "rounds"))))
            reader.start()
            reader.join()
            assert reader.exitcode == step + 1


def test_columns_are_checked(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        with pytest.raises(KeyError, match="no column colour"):
            log.append("rounds", **row(0), colour=3)
        with pytest.raises(KeyError, match="weight"):
            log.append("rounds", **{key: value for key, value in row(0).items() if key != "weight"})
        with pytest.raises(KeyError, match="nonsense"):
            log.append("nonsense", step=1)


def test_text_longer_than_its_column_is_cut_and_not_refused(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append("events", time=1.0, step=2, kind="long", text="é" * 500)
    text = read(log.path, "events")["text"][0].decode(errors="ignore")
    assert len(text) > 100 and set(text) == {"é"}


def test_joined_file_holds_all_ranks_in_order_and_may_move(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for rank in range(3):
        with open_log(run / "telemetry", rank) as log:
            for step in range(rank + 1):
                log.append("rounds", **row(10 * rank + step))
    assert join(run / "telemetry", run / "run.h5", 3) == []
    run.rename(tmp_path / "moved")
    joined = tmp_path / "moved" / "run.h5"
    assert read(joined, "rounds")["step"].tolist() == [0, 10, 11, 20, 21, 22]
    assert len(read(joined, "traffic")) == 0
    with h5py.File(joined) as file:
        assert file["ranks"]["rank"].tolist() == [0, 1, 2]
        assert json.loads(file["rounds"].attrs["units"])["seconds"] == "s"
        assert file.attrs["config"] == "train: {lr: 1}\n"
    frame = pandas.DataFrame(read(joined, "rounds"))
    assert list(frame.columns) == [column.name for column in TABLES["rounds"]]


def test_a_missing_rank_is_a_warning_when_joining_and_an_error_afterwards(tmp_path: Path) -> None:
    for rank in (0, 1):
        with open_log(tmp_path, rank) as log:
            log.append("rounds", **row(rank))
    warnings = join(tmp_path, tmp_path / "run.h5", 3)
    assert len(warnings) == 1 and "rank 2 is missing" in warnings[0]
    (tmp_path / "rank_00001.h5").unlink()
    with pytest.raises(UserError, match="rank_00001"):  # HDF5 itself would silently give zeros
        read(tmp_path / "run.h5", "rounds")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_files_that_are_no_logs_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.h5"):
        read(tmp_path / "x.h5", "rounds")
    with pytest.raises(UserError, match="no such log"):
        read(tmp_path / "absent.h5", "rounds")


def fill_the_disk(folder: Path, report: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        with open_log(folder) as log:
            for step in range(100_000):
                log.append("rounds", **row(step))
                if step % 100 == 0:
                    log.flush()
    except UserError as error:
        report.write_text(str(error))
    os._exit(0)


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    process = FORK.Process(target=fill_the_disk, args=(tmp_path / "logs", tmp_path / "report"))
    process.start()
    process.join(30)
    text = (tmp_path / "report").read_text()
    assert "rank_00000.h5: cannot write" in text and "\n" not in text


def test_every_column_has_unit_and_meaning() -> None:
    for table, columns in TABLES.items():
        assert all(column.unit and column.meaning for column in columns)
        assert row_dtype(table).names == tuple(column.name for column in columns)
        assert np.zeros(1, row_dtype(table)).nbytes > 0


def test_totals_outlive_a_process_that_goes_on_and_dies_before_its_first_flush(tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"
    with RankLog(path, rank=0, role="client", config="") as log:
        log.also_keep(lambda: np.array([3, 5]))
    counts, totals = read_kept(path)
    assert totals.tolist() == [3, 5]
    RankLog(path, rank=0, role="client", config="", kept=counts).close()
    assert read_kept(path)[1].tolist() == [3, 5]
    assert read_kept(tmp_path / "none.h5")[0] is None


def test_rows_and_counts_agree_when_the_writer_is_killed_between_two_tables(tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"

    def write() -> None:
        log, steps = open_log(tmp_path), [0]
        log.also_keep(lambda: np.array(steps))
        written = log._write

        def write_or_die(table: str, rows: np.ndarray) -> None:
            if steps[0] == 3 and table == "events":
                os.kill(os.getpid(), signal.SIGKILL)
            written(table, rows)

        log._write = write_or_die  # type: ignore[method-assign]
        for steps[0] in range(1, 4):
            log.append("rounds", **row(steps[0]))
            log.append("events", time=0.0, step=steps[0], kind="lost", text="")
            log.flush()

    process = FORK.Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    rows, totals = read_kept(path)
    assert rows is not None and (rows["rounds"], rows["events"], totals.tolist()) == (2, 2, [2])
    assert len(read(path, "rounds")) == len(read(path, "events")) == 2
    with h5py.File(path, "r", swmr=True) as file:
        assert len(file["rounds"]) == 3, "the row that was not counted is there"
