"""Replays of real runs: the same settings give the same bytes and decisions, other ones nearly those of a real run."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_runs import train

from splitcom_dist.control.choice import make_controller
from splitcom_dist.links import LINK_CODES
from splitcom_dist.replay.play import AsLogged, Outcome, play
from splitcom_dist.replay.recording import open_recording
from splitcom_dist.replay.report import compare
from splitcom_dist.replay.settings import Choices, load_changed
from splitcom_dist.telemetry.hdf5 import read

CASES = {
    "ddpg": ["codec=splitcom_all", "control=ddpg", "telemetry.sketch=64"],
    "byte_budget": ["codec=splitcom_all_int8", "control=byte_budget", "control.byte_budget.megabytes=0.5"],
    "u_rescaled": ["codec=splitcom_rescaled", "shape=u_shape", "control=bang_bang", "telemetry.sketch=64"],
    "some_clients": ["codec=splitcom", "fed.participation=0.5"],
    "some_epochs": ["codec=splitcom", "rest.policy=every_k"],
}


def played_again(run: Path) -> Outcome:
    """By the run's own controller; the decisions of byte_budget are taken as logged, because logs tell only in sum what
    reports and adapters for evaluations took of the budget."""
    recording = open_recording(run)
    config = recording.logs.config
    by_budget = config.control.name == "byte_budget"
    return play(recording, config, AsLogged(recording.logs) if by_budget else make_controller(config))


@pytest.mark.parametrize(
    "case", [name if name == "ddpg" else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_the_same_settings_give_the_bytes_and_decisions_of_the_run(
    case: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    done = train(model_folders["gpt2"], tmp_path / "run", *CASES[case])
    assert done.code == 0, done.stderr
    found, summary = played_again(tmp_path / "run"), json.loads((tmp_path / "run" / "summary.json").read_text())
    for link, part in found.links.items():
        told = summary["links"][link]
        assert (part.wire_bytes, part.raw_bytes) == (told["wire_bytes"], told["raw_real_bytes"]), link
        assert (part.sent, part.skipped) == (told["frames"]["I"], told["frames"]["S"]), link
    assert found.other_bytes == summary["adapter_bytes"] + summary["control_bytes"]
    rows = read(tmp_path / "run" / "run.h5", "threshold")
    for link, thetas in found.thetas.items():
        assert np.allclose(thetas, rows["theta"][rows["link"] == LINK_CODES[link]], rtol=1e-6), link


@pytest.mark.long
def test_bytes_of_other_thresholds_are_near_those_of_a_real_run(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for name, theta in (("logged", 0.98), ("real", 0.999)):
        thetas = [f"codec.{link}.theta={theta}" for link in ("up_activation", "down_gradient")]
        done = train(model_folders["gpt2"], tmp_path / name, "codec=splitcom_all", *thetas, "telemetry.sketch=256")
        assert done.code == 0, done.stderr
    settings = Choices([], ["0.999"], []).settings(load_changed(tmp_path / "logged", []))
    (found,) = compare(open_recording(tmp_path / "logged"), settings).outcomes.values()
    for link, part in played_again(tmp_path / "real").links.items():
        assert found.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.15), link
