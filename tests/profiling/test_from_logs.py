"""Profiles from logs: the speeds behind them, what they do not tell, and plans that come out as the runs did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from timed_run import (
    AT_CLIENT,
    AT_SERVER,
    DECODE,
    DOWN,
    ENCODE,
    LATENCY,
    OPTIMIZER,
    RESIDENT,
    RUN,
    UP,
    crossed,
    write_run,
)

from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.plan.cluster import read, write
from splitcom_dist.planning.estimate import Estimate, estimate
from splitcom_dist.planning.setting import Choice, open_setting
from splitcom_dist.profiling.from_logs import profile_from_logs
from splitcom_dist.telemetry.hdf5 import read as read_log


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("gated") / "run", "codec=splitcom", "codec.up_activation.theta=0.97")


def planned(run: Path, out: Path, choice: Choice, *settings: str) -> Estimate:
    """From the profile of a run's own logs."""
    write(profile_from_logs([run]), out)
    return estimate(open_setting(load_config([run / "config.yaml"], list(settings)), out), choice)


def test_the_speeds_behind_the_logs_are_found_in_spite_of_queues(gated: Path) -> None:
    profile = profile_from_logs([gated])
    assert [(edge.client_rank, edge.server_rank) for edge in profile.edges] == [(0, 2), (1, 2)]
    for edge in profile.edges:
        assert edge.up == pytest.approx(UP, rel=0.01)
        assert edge.down == pytest.approx(DOWN, rel=0.01)
        assert edge.latency_seconds == pytest.approx(LATENCY, rel=0.02)
    client, server = profile.ranks[0], profile.ranks[2]
    assert client.forward(2) + client.backward(2) + client.optimizer(2) == pytest.approx(AT_CLIENT, rel=1e-3)
    assert server.forward(4) + server.backward(4) == pytest.approx(AT_SERVER, rel=1e-3)
    assert server.optimizer(4) == pytest.approx(OPTIMIZER, rel=1e-2)
    assert client.forward(3) > client.forward(2), "blocks by their operations"
    assert [speed.codecs["splitcom"].encode for speed in profile.ranks] == pytest.approx([ENCODE] * 3)
    assert [speed.codecs["splitcom"].decode for speed in profile.ranks] == pytest.approx([DECODE] * 3)
    assert all(0 < (speed.process_bytes or 0) < RESIDENT for speed in profile.ranks)
    assert not profile.notes


def test_a_plan_has_the_bytes_memory_and_codec_of_the_run(gated: Path, tmp_path: Path) -> None:
    """Of a gate's link by the shares of its epochs, of the others exactly; a longer run repeats the later epochs."""
    found = planned(gated, tmp_path / "p.json", Choice(2, 8, "splitcom"))
    up = crossed(gated, "up_activation")
    assert found.link_bytes["up_activation"] == pytest.approx(up.sum(), abs=2)
    assert max(found.client_memory or 0, found.server_memory or 0) == RESIDENT
    longer = planned(gated, tmp_path / "p.json", Choice(2, 8, "splitcom"), "train.epochs=9")
    assert longer.link_bytes["up_activation"] == pytest.approx(up.sum() + 4 * up[1:].mean(), rel=1e-6)
    setting = open_setting(load_config([], RUN), tmp_path / "p.json")
    applied = setting.applied(Choice(3, 8, "splitcom"))
    assert applied.codec == load_config([gated / "config.yaml"]).codec, "its theta too"


def test_runs_of_two_codecs_are_chosen_from(gated: Path, tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", "codec=int8", alike=True)
    profile = profile_from_logs([gated, plain])
    assert set(profile.ranks[0].codecs) == set(profile.runs) == {"splitcom", "int8"}
    assert profile.runs["int8"].first == {"up_activation": 1.0, "down_gradient": 1.0}
    write(profile, tmp_path / "p.json")
    assert read(tmp_path / "p.json") == profile
    with pytest.raises(UserError, match="two of these runs have one codec"):
        profile_from_logs([gated, gated])


def test_packets_alike_both_ways_are_told_in_one_line_each(tmp_path: Path) -> None:
    profile = profile_from_logs([write_run(tmp_path / "run", "codec=int8", alike=True)])
    assert profile.edges[0].up == profile.edges[0].down == pytest.approx(2 / (1 / UP + 1 / DOWN), rel=0.01)
    assert [note.partition(":")[0] for note in profile.notes] == [
        f"link of rank {rank} (client {rank})" for rank in (0, 1)
    ]
    assert all("up from down" in note and "\n" not in note for note in profile.notes)


def test_a_run_that_goes_on_tells_all_but_memory(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "codec=splitcom", finished=False, steps=11)
    found = planned(run, tmp_path / "p.json", Choice(2, 8, "splitcom"))
    assert found.client_memory is None and found.step_seconds > 0
    up, two = crossed(run, "up_activation"), replace(profile_from_logs([run]), notes=[])
    assert found.link_bytes["up_activation"] == pytest.approx(up[0] + 4 * up[1], rel=1e-6), "whole epochs alone"
    assert two.runs["splitcom"].later is not None
    outcome = run_command(
        ["plan", *RUN, "codec=splitcom", "--profile", str(tmp_path / "p.json"), "--limits", "client_memory_mb=500"]
    )
    assert outcome.code == 2 and "knows no memory" in outcome.stderr and outcome.stderr.count("\n") == 1


def test_mistakes_are_one_line(gated: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no step behind the first"):
        profile_from_logs([write_run(tmp_path / "one", "codec=splitcom", finished=False, steps=1)])
    short = write_run(tmp_path / "short", "codec=splitcom", finished=False, steps=5)
    with pytest.raises(UserError, match="had not finished a second epoch"):
        planned(short, tmp_path / "p.json", Choice(2, 8, "splitcom"))
    with pytest.raises(UserError, match=r"fed\.clients"):
        profile_from_logs([gated, write_run(tmp_path / "more", "codec=int8", "fed.clients=3")])
    for arguments, reason in (
        (["--from", str(tmp_path / "nowhere")], "no config.yaml"),
        (["codec=none", "--from", str(gated)], "leave it out"),
        (["--from", str(write_run(tmp_path / "u", "model.tail_layers=1"))], "only the standard shape"),
        (["--from", str(write_run(tmp_path / "f", "codec=frozen"))], "its heads do not train"),
    ):
        found = run_command(["profile", *arguments, "--out", str(tmp_path / "p.json")])
        assert found.code == 2 and reason in found.stderr and found.stderr.count("\n") == 1, found.stderr


@pytest.mark.long
def test_a_real_run_over_a_slow_link_tells_its_bandwidth_and_its_own_step_time(tmp_path: Path) -> None:
    settings = [
        *("data.train_samples=32", "data.validation_samples=2", "train.batch_size=4", "train.epochs=3"),
        *("fed.clients=1", "roles.client_ranks=1", "fed.every=5", "runtime.threads=1", "telemetry.progress=false"),
        *("codec=splitcom", "codec.up_activation.theta=-1"),  # nothing goes up after the first epoch
        *("runtime.link.up_mbit=4", "runtime.link.down_mbit=8", "runtime.link.delay_ms=5"),
    ]
    run, file = tmp_path / "run", tmp_path / "profile.json"
    assert run_command(["train", *settings, "--out", str(run)], timeout=300).code == 0
    found = run_command(["profile", "--from", str(run), "--out", str(file)])
    assert found.code == 0 and "1 edges" in found.stdout, found.stderr
    (edge,) = read(file).edges
    assert 0.7 * 5e5 < edge.up < 1.2 * 5e5, "4 Mbit/s"
    assert 0.7 * 1e6 < edge.down < 1.2 * 1e6, "8 Mbit/s"
    config = load_config([run / "config.yaml"])
    foreseen = estimate(open_setting(config, file), Choice(config.model.cut_layer, config.lora.rank, "splitcom"))
    rows = read_log(run / "telemetry" / "rank_00000.h5", "train")
    rounds = read_log(run / "telemetry" / "rank_00000.h5", "rounds")
    turns = rows["seconds"] + rows["wait"]  # first epochs send more than later ones, plans are for their mean
    step = np.mean([np.median(turns[rows["epoch"] == epoch]) for epoch in range(3)]) + np.median(rounds["seconds"]) / 5
    assert 0.7 < foreseen.step_seconds / step < 1.4
