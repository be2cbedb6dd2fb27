"""`splitcom log-repair`: what can be read becomes a fresh log, the original stays, and it is told what is lost."""

import os
import time
from pathlib import Path

import h5py
import pytest
from example_log import write_log

from splitcom_dist.cli import main
from splitcom_dist.config.files import to_yaml
from splitcom_dist.config.schema import Config, RolesConfig
from splitcom_dist.telemetry.hdf5 import read, read_kept
from splitcom_dist.telemetry.join import join


def make_run(root: Path) -> Path:
    """Logs of three ranks: whole, cut off, and of a killed writer."""
    (root / "telemetry").mkdir(parents=True)
    (root / "config.yaml").write_text(to_yaml(Config(roles=RolesConfig(client_ranks=1))))
    logs = [root / "telemetry" / f"rank_{rank:05d}.h5" for rank in range(3)]
    for rank, log in enumerate(logs):
        write_log(log, rank=rank, kill=rank == 2)
    os.truncate(logs[1], logs[1].stat().st_size // 2)
    an_hour_ago = time.time() - 3600
    for log in logs:
        os.utime(log, (an_hour_ago, an_hour_ago))
    return root


def test_damaged_logs_are_replaced_and_the_originals_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    whole, cut, killed = sorted((run / "telemetry").iterdir())
    before = {path: path.read_bytes() for path in (whole, cut, killed)}
    assert main(["log-repair", str(run)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert whole.read_bytes() == before[whole] and "rank_00000.h5: whole, nothing to repair" in told
    for path in (cut, killed):
        assert path.with_name(f"{path.name}.broken").read_bytes() == before[path]
    assert "rank_00001.h5: repaired, the original is rank_00001.h5.broken" in told and "lost: similarity: " in told
    assert "rank_00002.h5: not closed by its writer; all its rows are kept" in told
    rows = len(read(cut, "similarity"))
    assert 0 < rows < 5000 and f"{rows} of 5000" in told
    with h5py.File(killed, "r") as file:  # as anybody's HDF5 would
        assert file.attrs["role"] == "client" and file["similarity"].attrs["rows"] == 5000
        assert file.attrs["closed_cleanly"] == 0 and file.attrs["repaired"] == "[]"
    assert read_kept(killed)[1].tolist() == list(range(32))
    assert len(read(run / "run.h5", "similarity")) == 10_000 + rows
    assert main(["log-repair", str(run)]) == 0
    assert "repaired" not in capsys.readouterr().out, "a fresh log is whole"


def test_a_log_of_which_nothing_is_left_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rank_00000.h5"
    write_log(path)
    os.truncate(path, 600)
    assert main(["log-repair", str(path)]) == 1
    assert "rank_00000.h5: nothing can be read of it" in capsys.readouterr().out
    assert path.stat().st_size == 600 and [each.name for each in tmp_path.iterdir()] == ["rank_00000.h5"]


def test_a_log_that_may_have_a_living_writer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rank_00000.h5"
    write_log(path, kill=True)
    assert main(["log-repair", str(path)]) == 2
    assert "its run may be alive: wait, or say --ended" in capsys.readouterr().err
    assert main(["log-repair", "--ended", str(path)]) == 0
    assert path.with_name("rank_00000.h5.broken").is_file()


@pytest.mark.parametrize("given", ["nowhere.h5", "."])
def test_what_is_no_log_is_a_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["log-repair", given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_joined_file_has_the_rows_of_a_killed_rank(tmp_path: Path) -> None:
    (tmp_path / "telemetry").mkdir()
    for rank in range(2):
        write_log(tmp_path / "telemetry" / f"rank_{rank:05d}.h5", rank=rank, kill=rank == 1)
    assert len(join(tmp_path / "telemetry", tmp_path / "run.h5", 2)) == 1
    assert len(read(tmp_path / "run.h5", "similarity")) == 10_000
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert (
            bytes(file["similarity"][-1].tobytes())
            == read(tmp_path / "telemetry/rank_00001.h5", "similarity")[-1].tobytes()
        )
