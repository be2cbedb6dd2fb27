"""Where a run begins: a directory of its own, or behind the newest whole checkpoint of the same run."""

import json
from pathlib import Path

import pytest
import torch

from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.checkpoints.start import Start, find_start
from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError


def config(*overrides: str) -> Config:
    return load_config(overrides=["resume=auto", *overrides])


def saved_run(root: Path, step: int) -> Start:
    """A run that was killed some steps after its only checkpoint."""
    start = find_start(config(), root, 1)
    folder = CheckpointFolder(start.directory.checkpoints, 1)
    folder.commit(step, {0: folder.write(step, 0, {"x": torch.zeros(2)})}, 1)
    lines = [json.dumps({"step": number, "ppl": 1.0}) + "\n" for number in (-1, step, step + 4)]
    start.directory.metrics.write_text("".join(lines))
    (start.directory.root / "references").mkdir()
    return start


def test_a_new_run_gets_a_directory_and_the_same_command_goes_on(tmp_path: Path) -> None:
    start = saved_run(tmp_path / "run", 9)
    assert start.step is None and not start.finished
    again = find_start(config(), tmp_path / "run", 1)
    assert (again.directory, again.step) == (start.directory, 9)
    steps = [json.loads(line)["step"] for line in again.directory.metrics.read_text().splitlines()]
    assert steps == [-1, 9], "evaluations behind the checkpoint are done again"
    assert not (again.directory.root / "references").exists()


def test_without_a_whole_checkpoint_it_begins_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = saved_run(tmp_path / "run", 9)
    (start.directory.checkpoints / "step_00000009" / "rank_00000.safetensors").write_bytes(b"torn")
    (start.directory.telemetry / "rank_00000.h5").write_bytes(b"old")
    again = find_start(config(), tmp_path / "run", 1)
    assert again.step is None
    assert not list(again.directory.telemetry.iterdir())
    assert again.directory.metrics.read_text() == ""
    assert "step 9 cannot be used: step_00000009/rank_00000.safetensors is torn" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    start = saved_run(tmp_path / "run", 9)
    start.directory.summary.write_text("{}")
    assert find_start(config(), tmp_path / "run", 1) == Start(start.directory, finished=True)


def test_another_configuration_is_refused_by_its_key(tmp_path: Path) -> None:
    saved_run(tmp_path / "run", 9)
    with pytest.raises(UserError, match=r"run: the run there was made with train\.lr=0\.\d+, not 0\.5: resume it"):
        find_start(config("train.lr=0.5"), tmp_path / "run", 1)
    with pytest.raises(UserError, match=r"telemetry\.sketch=0, not 8"):
        find_start(config("telemetry.sketch=8"), tmp_path / "run", 1)
    allowed = config("runtime.timeout_seconds=7", "checkpoint.every=3", "telemetry.progress=false")
    assert find_start(allowed, tmp_path / "run", 1).step == 9


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"run: no run that could go on: it has no config\.yaml"):
        find_start(config(), tmp_path / "run", 1)
    with pytest.raises(UserError, match="resume=auto: --out must name the run directory"):
        find_start(config(), None, 1)


def test_without_resume_nothing_is_ever_taken_over(tmp_path: Path) -> None:
    saved_run(tmp_path / "run", 9)
    with pytest.raises(UserError, match="exists: a run is never overwritten"):
        find_start(load_config(), tmp_path / "run", 1)


@pytest.mark.parametrize("more", [(), ("telemetry", "log")])
def test_a_run_begins_beside_what_its_batch_job_wrote(tmp_path: Path, more: tuple[str, ...]) -> None:
    for name in ("slurm", *more):  # more: a launch that was killed as it made the directory
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "slurm" / "7.log").touch()
    start = find_start(config(), tmp_path / "run", 1)
    assert start.step is None and (start.directory.root / "slurm" / "7.log").exists()
    assert start.directory.telemetry.is_dir() and (start.directory.root / "config.yaml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"no config\.yaml"):
        find_start(config(), tmp_path / "run", 1)
