"""Curves from logs: each step's loss and each evaluation's quality and bytes reach every writer, in order."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_watch import Run

from splitcom_dist.cli import main
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.watch.beside import writing_beside
from splitcom_dist.watch.picture import Picture
from splitcom_dist.watch.writers import Curves

SHARE = "share of padded baseline/up_activation"


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self.told.append((step, dict(figures)))

    def close(self) -> None: ...


def test_new_figures_are_written_once_and_in_order(tmp_path: Path) -> None:
    run, recorder = Run(tmp_path / "run"), Recorder()
    picture = Picture(run.root)
    curves = Curves(picture, [recorder])
    for step in range(3):
        run.train(step)
        if step == 1:
            run.logs[3].append("eval", **run.evaluation(1, 150.0))
            run.flush()
        picture.poll()
        curves.draw()
    steps = [step for step, _ in recorder.told]
    assert steps == [0, 1, 2] and [figures["train/loss"] for _, figures in recorder.told] == [5.0, 4.9, 4.8]
    assert recorder.told[0][1]["eval/perplexity"] == 200
    evaluation = recorder.told[1][1]
    assert evaluation["bytes/up_activation"] == 4000 and evaluation[SHARE] == 0.5, "of both clients, up to step 1"
    assert "eval/perplexity" not in recorder.told[2][1]


def test_tensorboard_reads_its_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: pip install 'splitcom-dist[tensorboard]'")
    from tensorboardX.proto.event_pb2 import Event

    run = Run(tmp_path / "run")
    run.train(0)
    run.finish()
    for _ in range(2):  # the second look replaces the first
        assert main(["watch", str(run.root), "--write", "tensorboard"]) == 0
    (path,) = (run.root / "tensorboard").iterdir()
    data, place, found = path.read_bytes(), 0, {}
    while place < len(data):  # TFRecord: length, crc, event, crc
        length = int.from_bytes(data[place : place + 8], "little")
        for value in Event.FromString(data[place + 12 : place + 12 + length]).summary.value:
            found[value.tag] = value.simple_value
        place += 16 + length
    assert found["train/loss"] == 5.0 and found["eval/perplexity"] == 200.0


def fake(name: str, calls: list[Any]) -> ModuleType:
    """A package that notes what the writers call."""

    def note(call: str, result: Any = None) -> Any:
        def noted(*args: Any, **more: Any) -> Any:
            calls.append((call, args, more))
            return result

        return noted

    module: Any = ModuleType(name)
    run = SimpleNamespace(log=note("log"), finish=note("finish"), info=SimpleNamespace(run_id="r1"))
    module.init, module.start_run = note("init", run), note("start_run", run)
    for call in ("set_experiment", "log_dict", "log_metrics", "end_run"):
        setattr(module, call, note(call))
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("wandb", ["init", "log", "finish"]),
        ("mlflow", ["set_experiment", "start_run", "log_dict", "log_metrics", "end_run"]),
    ],
)
def test_other_writers_get_the_same(
    name: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setitem(sys.modules, name, fake(name, told))
    run = Run(tmp_path / "run")
    run.train(0)
    run.finish()
    assert main(["watch", str(run.root), "--write", name]) == 0
    assert [call for call, _, _ in told] == calls
    (figures,), more = next(rest for call, *rest in told if call.startswith("log") and "step" in rest[1])
    assert figures["train/loss"] == 5.0 and more["step"] == 0
    assert more.get("run_id", "r1") == "r1"


def test_mlflow_keeps_them_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install 'splitcom-dist[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs sqlalchemy, which the extra does not bring
    run = Run(tmp_path / "run")
    run.train(0)
    run.finish()
    assert main(["watch", str(run.root), "--write", "mlflow"]) == 0
    (found,) = mlflow.search_runs(experiment_names=["splitcom"], output_format="list")
    assert found.data.metrics["train/loss"] == 5.0 and found.info.run_name == "run"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorboard", "writer tensorboard needs tensorboardX: pip install 'splitcom-dist[tensorboard]'"),
        ("wandb", "writer wandb needs wandb: pip install 'splitcom-dist[wandb]'"),
        ("mlflow", "writer mlflow needs mlflow: pip install 'splitcom-dist[mlflow]'"),
        ("excel", "writer excel: known are tensorboard, wandb, mlflow"),
    ],
)
def test_a_missing_package_is_a_line_that_names_the_extra(
    name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("tensorboardX", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    run = Run(tmp_path / "run")
    assert main(["watch", str(run.root), "--write", name]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_what_a_package_refuses_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = fake("mlflow", [])

    def refuse(*_: Any) -> None:
        raise ValueError("no store\nat this address")

    package.set_experiment = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    assert main(["watch", str(Run(tmp_path / "run").root), "--write", "mlflow"]) == 2
    assert capsys.readouterr().err == "error: writer mlflow: no store at this address\n"


@pytest.mark.long
def test_a_run_has_its_curves_written_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: pip install 'splitcom-dist[tensorboard]'")
    run = Run(tmp_path / "run")
    curves = writing_beside(["tensorboard"], RunDirectory(run.root))
    run.train(0)
    run.finish()
    curves.wait()
    (path,) = (run.root / "tensorboard").iterdir()
    assert b"train/loss" in path.read_bytes()
    assert "the run is finished" in (run.root / "log" / "watch.log").read_text()
