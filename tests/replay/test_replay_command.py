"""`splitcom replay` on the terminal: its table, its JSON, a policy to load, and one line for what it cannot do."""

import json
from pathlib import Path

import pytest
import torch
from replayable_run import replayable_run
from safetensors.torch import load_file

from splitcom_dist.cli import main
from splitcom_dist.config.files import load_config
from splitcom_dist.control.ddpg import Ddpg
from splitcom_dist.replay.policy import train_policy
from splitcom_dist.replay.recording import open_recording
from splitcom_dist.replay.settings import Choices, load_changed

ALL, SKETCHED = "codec=splitcom_all", "telemetry.sketch=256"
CONTROL = ["control.ddpg.every=epoch", "control.ddpg.noise=0.6", "control.ddpg.quality_weight=1"]
CONTROL += ["control.ddpg.updates=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replayable_run(tmp_path_factory.mktemp("logged") / "run", ALL, SKETCHED)


def test_the_table_and_the_json_tell_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["replay", str(run), "--gate", "cosine", "--theta", "0.98,0.99/0.9", "--controller", "bang_bang,ddpg"]
    assert main(asked) == 0
    table = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert list(told["settings"]) == ["theta 0.98", "theta 0.99/0.9", "bang_bang", "ddpg"]
    for name, outcome in told["settings"].items():
        share = 100 * (outcome["wire_bytes"] / told["logged"]["wire_bytes"] - 1)
        assert any(name in line and f"{share:+.1f} %" in line for line in table.splitlines()), name
    assert "…" not in table and "quality does not respond" in table
    for name, (half, double) in told["half_and_double_drift"].items():
        sizes = (half["wire_bytes"], told["settings"][name]["wire_bytes"], double["wire_bytes"])
        assert name in ("bang_bang", "ddpg") or sizes == tuple(sorted(sizes)), name
    assert half["wire_bytes"] < double["wire_bytes"]
    assert told["own_thresholds"]["wire_bytes"] == told["logged"]["wire_bytes"]
    assert told["settings"]["theta 0.99/0.9"]["links"]["down_gradient"]["theta"][0] == 0.9


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gate", "error"], "references are by position"),
        (["--gate", "cosin"], "--gate cosin: known are cosine, always"),
        (["--controller", "pid"], "known are fixed, bang_bang, ddpg, byte_budget"),
        (["--theta", "0.98,1.2"], "--theta 1.2: a cosine"),
        (["--theta", "0.98,"], "none of them empty"),
        (["train.lr=1"], "a replay does not train"),
        (["codec=video"], "references are by position"),
        (["codec.up_activation.quantizer=low_rank"], "needs gate=always"),
        (["codec.down_gradient.rescale=true"], "not logged how near rescaled references are"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(
    arguments: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_runs_without_a_gate_or_logs_say_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = replayable_run(tmp_path / "plain", "codec=fp16")
    for arguments, told in (
        (["--theta", "0.9"], "add --gate cosine"),
        (["--gate", "cosine"], "log them with telemetry.sketch=256"),
    ):
        assert main(["replay", str(plain), *arguments]) == 2
        assert told in capsys.readouterr().err
    assert main(["replay", str(tmp_path)]) == 2
    assert "give the directory of a finished run" in capsys.readouterr().err


def test_a_policy_learns_what_staleness_costs_and_can_be_loaded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it costs nothing, it sends little; where it is dear, much."""
    found = {}
    for price in (0, 1000):
        policy = tmp_path / f"{price}.safetensors"
        asked = [str(run), "--train", str(policy), "--episodes", "60", "--stale-price", str(price), *CONTROL]
        assert main(["replay", *asked, "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)
        found[price] = told["settings"]["ddpg, trained"]["links"]["down_gradient"]
        config = load_config([run / "config.yaml"], [*CONTROL, "control.name=ddpg", f"control.ddpg.load={policy}"])
        loaded, saved = Ddpg(config).checkpoint(), load_file(policy)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    assert found[1000]["wire_bytes"] > 1.2 * found[0]["wire_bytes"]
    assert found[1000]["theta"][-1] > 0.97 and found[0]["theta"][-1] < 0.9


def test_the_same_logs_teach_the_same_policy(run: Path) -> None:
    config = Choices([], [], []).learner(load_changed(run, CONTROL))
    recording = open_recording(run)
    one, other = (train_policy([recording], [config], episodes=6) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert int(one["remembered"]) == 7 * 5, "the run's own decisions, then six replays; in the first epoch none"
