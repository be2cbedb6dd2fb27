"""Clients that are cut at different depths, served in one step: the oracle of exactness holds, and so do the books."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import assert_same_run, settings
from test_predict import overrides, predicted, trained
from test_resume import at_step, check_same, go_on
from test_runs import train

from splitcom_dist.config.files import load_config
from splitcom_dist.dry_run import adapter_elements, held_by
from splitcom_dist.predict import predict_adapters
from splitcom_dist.telemetry.hdf5 import read

SHAPES: dict[str, tuple[str, int, list[str]]] = {  # by name: a family, tail layers and what else is set
    "three ranks": ("gpt2", 0, ["fed.cut_layers=[1,2,3]"]),
    "two depths on a rank": ("llama", 0, ["fed.cut_layers=[3,1,1]", "roles.client_ranks=2"]),
    "two servers": ("llama", 0, ["fed.cut_layers=[3,2,1]", "roles.server_ranks=2"]),
    "parked": ("gpt2", 0, ["fed.cut_layers=[2,3,1]", "roles.client_ranks=1", "fed.resident=1"]),
    "merged": ("gpt2", 0, ["fed.cut_layers=[3,1,2]", "roles.server_batching=merged"]),
    "arrival": ("gpt2", 0, ["fed.cut_layers=[3,1,2]", "roles.server_batching=arrival", "roles.batching_window=0.05"]),
    "merged, two servers": (
        "gpt2",
        0,
        ["fed.cut_layers=[2,2,1]", "roles.server_batching=merged", "roles.server_ranks=2"],
    ),
    "u_shape": ("llama", 1, ["fed.cut_layers=[1,1,2]", "roles.client_ranks=2"]),
    "u_shape, two servers": ("llama", 1, ["fed.cut_layers=[2,1,1]", "roles.server_ranks=2"]),
}
FAST = "three ranks", "two depths on a rank", "u_shape", "merged"


def run(out: Path, settings: list[str]) -> None:
    outcome = run_command(["train", *settings, "--out", str(out)])
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[] if shape in FAST else pytest.mark.long) for shape in SHAPES]
)
def test_mixed_cuts_equal_one_process_and_equal_cuts(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Plain SGD, averaging in every step: who trains a block makes no difference."""
    family, tail, extra = SHAPES[shape]
    equal = settings(model_folders[family], 3, 1, "sgd", tail)
    run(tmp_path / "equal", equal)
    run(tmp_path / "mixed", [*equal, *extra])
    assert_same_run(tmp_path / "mixed", load_config([], [*equal, *extra]))
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("equal", "mixed"))
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= 1e-5 * one[name].norm(), name
    ppl = [json.loads((tmp_path / name / "summary.json").read_text())["ppl"] for name in ("equal", "mixed")]
    assert ppl[1] == pytest.approx(ppl[0], rel=1e-5)


@pytest.mark.parametrize(
    "extra",
    [
        [],
        pytest.param(["shape=u_shape", "fed.cut_layers=[2,1,1,2]", "codec=splitlite"], marks=pytest.mark.long),
        pytest.param(["fed.participation=0.5", "fed.every=1", "train.epochs=5"], marks=pytest.mark.long),
        pytest.param(["roles.server_ranks=2", "codec=int8"], marks=pytest.mark.long),
    ],
    ids=lambda extra: "_".join(extra) or "plain",
)
def test_what_mixed_cuts_send_is_what_was_predicted(
    extra: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    ranks = ["roles.client_ranks=2", "fed.clients=4", "fed.cut_layers=[3,1,2,1]"]
    mixed = [*overrides(model_folders["llama"], "standard", "none"), *ranks, *extra]
    summary, config = trained(mixed, tmp_path / "run")
    source, schedule, links = predicted(config)
    assert links.keys() == summary["links"].keys()
    for link, count in links.items():
        assert count.least == count.most == summary["links"][link]["wire_bytes"], link
    assert predict_adapters(config, schedule, *adapter_elements(config, source)) == summary["adapter_bytes"]
    held = [sum(held) for held in held_by(config, source, schedule.layout)]
    assert [rank["weights_bytes"] for rank in summary["ranks"]] == held
    rounds, told = (read(tmp_path / "run" / "run.h5", table) for table in ("rounds", "events"))
    for step in np.unique(rounds["step"]):
        weights = rounds[rounds["step"] == step]["weight"]
        assert len(weights) == schedule.layout.world_size and len(set(weights.tolist())) == 1, "servers take part too"
    texts = {row["text"] if isinstance(row["text"], str) else row["text"].decode() for row in told}
    cuts = config.fed.cut_layers or []
    assert {f"client {client} is cut after {cut} blocks" for client, cut in enumerate(cuts)} <= texts


@pytest.mark.parametrize(
    "extra", [["roles.server_ranks=2"], pytest.param(["fed.resident=1", "codec=video"], marks=pytest.mark.long)]
)
def test_a_mixed_run_that_was_stopped_in_a_round_goes_on_exactly(
    extra: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, mixed = model_folders["gpt2"], ["fed.cut_layers=[1,3,2]", "resume=auto", *extra]
    go_on(model, tmp_path / "whole", mixed)
    stopped = train(model, tmp_path / "run", *mixed, before=at_step(5, signal.SIGTERM))  # saved after 6 of a round 6..8
    assert stopped.code == 75, stopped.stderr
    go_on(model, tmp_path / "run", mixed)
    check_same(tmp_path / "run", tmp_path / "whole")


def test_a_dry_run_tells_which_blocks_each_rank_holds(model_folders: dict[str, Path], tmp_path: Path) -> None:
    mixed = ["roles.client_ranks=2", "fed.clients=4", "fed.cut_layers=[1,2,1,3]"]
    outcome = run_command(["train", *overrides(model_folders["llama"], "standard", "none"), *mixed, "--dry-run"])
    assert outcome.code == 0, outcome.stderr
    blocks = {line.split()[1]: line for line in outcome.stdout.splitlines() if line.startswith("rank ")}
    for rank, held in enumerate(("0..0", "0..2", "1..3", "0..3")):
        assert f" {held} " in blocks[str(rank)], blocks[str(rank)]


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["fed.cut_layers=[1,4]"], ["fed.cut_layers=4", "choose 1 to 3"]),
        (["fed.cut_layers=[1,2]", "model.tail_layers=2"], ["model.tail_layers=2", "fed.cut_layers=2", "0 to 1"]),
    ],
)
def test_cuts_outside_the_model_are_named(
    extra: list[str], parts: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_command(["train", *overrides(model_folders["gpt2"], "standard", "none", *extra), "--dry-run"])
    assert outcome.code == 2
    assert all(part in outcome.stderr for part in parts), outcome.stderr
