"""`splitcom plan` writes a configuration that trains, and sends the bytes that were foreseen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_profile, run_command

from splitcom_dist.config.files import load_config
from splitcom_dist.plan.cluster import EdgeSpeed, write
from splitcom_dist.planning.estimate import estimate
from splitcom_dist.planning.setting import Choice, open_setting

RUN = [
    *("data.train_samples=8", "data.validation_samples=2", "data.max_length=128", "train.batch_size=4"),
    *("train.epochs=1", "roles.client_ranks=1", "fed.clients=1", "runtime.threads=1", "telemetry.progress=false"),
]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    write(make_profile(), tmp_path / "profile.json")
    return tmp_path / "profile.json"


def test_the_plan_trains_with_the_bytes_it_foresaw(profile: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "run"
    found = run_command(
        ["plan", *RUN, "--profile", str(profile), "--cuts", "1,3", "--ranks", "2,4", "--out", str(file)]
    )
    assert found.code == 0, found.stderr
    assert "step" in found.stdout and str(file) in found.stdout
    config = load_config([file])
    assert config.codec.name == "int8", "over 1 MB/s the smaller packets are sooner there"
    assert config.lora.alpha / config.lora.rank == 2
    trained = run_command(["train", str(file), "--out", str(out)])
    assert trained.code == 0, trained.stderr
    summary = json.loads((out / "summary.json").read_text())
    setting = open_setting(load_config([], RUN), profile)
    foreseen = estimate(setting, Choice(config.model.cut_layer, config.lora.rank, config.codec.name))
    assert {name: link["wire_bytes"] for name, link in summary["links"].items() if link["wire_bytes"]} == dict(
        foreseen.link_bytes
    )
    assert summary["adapter_bytes"] == foreseen.adapter_bytes


def test_what_is_slow_is_avoided(profile: Path) -> None:
    """Slow clients get few blocks, slow servers leave many; a rank that needs more rounds takes longer."""
    setting = open_setting(load_config([], RUN), profile)
    measured = setting.profile

    def slowed(role: str) -> list[float]:
        ranks = [
            replace(speed, forward=replace(speed.forward, further=1.0)) if speed.role == role else speed
            for speed in measured.ranks
        ]
        own = replace(setting, profile=replace(measured, ranks=ranks))
        return [estimate(own, Choice(cut, 8, "none")).step_seconds for cut in (1, 2, 3, 4, 5)]

    assert slowed("client") == sorted(slowed("client"))
    assert slowed("server") == sorted(slowed("server"), reverse=True)
    low, high = (estimate(setting, Choice(2, rank, "none")) for rank in (2, 32))
    assert low.run_seconds > high.run_seconds and low.step_seconds < high.step_seconds
    assert (low.client_memory or 0) < (high.client_memory or 0)
    fast = replace(setting, profile=replace(measured, edges=[EdgeSpeed(0, 1, 1e9, 1e9, 1e-4)]))
    assert (
        estimate(fast, Choice(2, 8, "none")).step_seconds < 0.5 * estimate(setting, Choice(2, 8, "none")).step_seconds
    )


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--limits", "client_memory_mb=1"], "allow client_memory_mb="),
        (["--limits", "hours=1"], "known are seconds"),
        (["--cuts", "9"], "choose 1 to 5"),
        (["--codecs", "video"], "the profile has none, int8; `splitcom profile --from RUN` reads others"),
        (["roles.client_ranks=2", "fed.clients=2"], "roles.client_ranks=1, not 2"),
        (["train.batch_size=2"], "batches of 4 samples"),
        (["model.tail_layers=1"], "only the standard shape"),
        (["roles.server_shards=2"], "only whole servers"),
        (["fed.speed.dist=uniform"], "are not planned"),
        (["fed.participation=0.5"], "set fed.participation=1"),
        (["roles.server_batching=merged"], "set roles.server_batching=sequential"),
        (["codec=video", "rest.policy=every_k"], "set rest.policy=never"),
    ],
)
def test_mistakes_are_one_line(extra: list[str], reason: str, profile: Path) -> None:
    found = run_command(["plan", *RUN, "--profile", str(profile), *extra])
    assert found.code == 2
    assert reason in found.stderr and found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "override",
    [
        "fed.cut_layers=[2]",
        "fed.cuts.policy=splitft fed.cuts.deepest=3",
        "lora.cut_rank=2",
        "lora.ranks=[4]",
        "fed.rank_aggregation=svd",
        "fed.rank_aggregation=stack",
        "model.tail_layers=1",
    ],
)
def test_what_is_not_planned_is_refused_in_one_line(override: str, profile: Path) -> None:
    outcome = run_command(["plan", *RUN, *override.split(), "--profile", str(profile)])
    assert outcome.code == 2 and outcome.stderr.startswith(f"error: {override.partition('=')[0]}"), outcome.stderr
    assert outcome.stderr.count("\n") == 1
