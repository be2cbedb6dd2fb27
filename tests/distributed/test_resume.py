"""Whole runs that are asked to stop, or killed, and go on: the same adapters, bytes and figures, bit for bit."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from safetensors.torch import load_file
from test_runs import train

from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.telemetry.hdf5 import read

STEPS = 15  # of the runs in test_runs.py: 3 epochs of 5 steps
TIMES = ("t_encode", "t_send", "t_decode")
CASES = {
    "splitcom": ["codec=splitcom", "model.dropout=0.1", "telemetry.sketch=4"],
    "video": ["codec=video", "fed.adapter_quantizer=int8", "rest.policy=every_k", "rest.every=2"],
    "bang_bang": [
        "codec=splitcom_int8",
        "control=bang_bang",
        "rest.policy=gain",
        "train.optimizer=sgd",
        "train.lr=0.05",
    ],
    "u_shape": ["shape=u_shape", "codec=splitcom_all_int8", "control=ddpg", "control.ddpg.every=round"],
    "u_video": ["shape=u_shape", "codec=video", "control=byte_budget", "control.byte_budget.megabytes=1"],
    "aqsgd": ["codec=aqsgd"],
    "stacked": ["fed.rank_aggregation=stack", "codec=video", "control=byte_budget"],
}


def at_step(step: int, number: signal.Signals, role: str = "server") -> Callable[[], None]:
    """Send a signal to the launcher, which passes SIGTERM on to all ranks, and whose end by SIGKILL is theirs."""

    def patch() -> None:
        kind, name = (ServerRole, "step") if role == "server" else (ClientRole, "train")
        original = getattr(kind, name)

        def disturbed(self: Any, *arguments: Any) -> Any:
            if arguments[-1] == step:
                os.kill(os.getppid(), number)
            return original(self, *arguments)

        setattr(kind, name, disturbed)

    return patch


def while_saving(step: int, rank: int) -> Callable[[], None]:
    """SIGKILL to all ranks when one of them has written half of its file."""

    def patch() -> None:
        original = CheckpointFolder.write

        def disturbed(self: CheckpointFolder, *arguments: Any) -> dict[str, str]:
            digests = original(self, *arguments)
            if arguments[:2] == (step, rank):
                path = self._file(step, rank)
                path.write_bytes(path.read_bytes()[:99])
                os.kill(os.getppid(), signal.SIGKILL)
            return digests

        CheckpointFolder.write = disturbed  # type: ignore[method-assign, assignment]

    return patch


def figures(out: Path) -> dict[str, Any]:
    """What must not depend on where a run was interrupted: all but times and memory."""
    summary = json.loads((out / "summary.json").read_text())
    for name in ("seconds", "tokens_per_second", "ranks", "config"):
        del summary[name]
    tables = {}
    for table in ("traffic", "similarity", "sketch", "threshold", "eval", "rounds", "train"):
        rows = read(out / "run.h5", table)
        columns = [name for name in rows.dtype.names or () if name not in (*TIMES, "seconds", "wait")]
        tables[table] = rows[columns].tolist()
    summary["metrics"] = (out / "metrics.jsonl").read_text()
    return {"summary": summary, "tables": json.loads(json.dumps(tables, default=str))}


def check_same(out: Path, undisturbed: Path) -> None:
    one, other = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (out, undisturbed))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one), "adapters"
    assert repr(figures(out)) == repr(figures(undisturbed))  # as text: NaN is NaN


def go_on(model: Path, out: Path, settings: list[str]) -> Outcome:
    """Until it is through, at most a few times."""
    done = train(model, out, *settings)
    assert done.code == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "case", [case if case == "splitcom" else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_a_run_that_was_stopped_goes_on_exactly(case: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    model, settings = model_folders["gpt2"], [*CASES[case], "resume=auto"]
    go_on(model, tmp_path / "whole", settings)
    for step, role in ((3, "server"), (8, "client")):
        stopped = train(model, tmp_path / "run", *settings, before=at_step(step, signal.SIGTERM, role))
        assert stopped.code == 75, stopped.stderr
        assert "the same command with resume=auto goes on from there" in stopped.stdout
    go_on(model, tmp_path / "run", settings)
    check_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("case", ["splitcom", pytest.param("u_video", marks=pytest.mark.long)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    case: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, settings = model_folders["gpt2"], [*CASES[case], "resume=auto", "checkpoint.every=2"]
    go_on(model, tmp_path / "whole", settings)
    for before in (at_step(6, signal.SIGKILL), while_saving(9, rank=1)):
        assert train(model, tmp_path / "run", *settings, before=before).code == -signal.SIGKILL
    done = go_on(model, tmp_path / "run", settings)
    assert "step 9 cannot be used: it has no readable manifest.json" in done.stderr
    check_same(tmp_path / "run", tmp_path / "whole")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert kept == ["step_00000011", "step_00000013"]
    again = train(model, tmp_path / "run", *settings)
    assert again.code == 0 and "this run is finished" in again.stdout


def test_a_signal_in_the_last_step_changes_nothing(model_folders: dict[str, Path], tmp_path: Path) -> None:
    done = train(model_folders["gpt2"], tmp_path / "run", before=at_step(STEPS - 1, signal.SIGTERM))
    assert done.code == 0, done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
