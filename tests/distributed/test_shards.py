"""A server of several shards is one server: the same losses and adapters, less memory on each, and one end of all."""

import gc
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_lost
import test_mistakes
import test_resume
import torch
import torch.distributed as dist
import transformers
from conftest import run_command
from safetensors.torch import load_file, save_file
from test_exactness import assert_same_run, settings, u_shape_losses
from test_predict import overrides, predicted, predicted_adapters
from test_runs import check_books, train
from test_servers import assert_same_adapters

from splitcom_dist.checkpoints.start import check_same_run
from splitcom_dist.comm.portions import Portion
from splitcom_dist.config.files import load_config
from splitcom_dist.dry_run import held_by
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.models.lora import flatten
from splitcom_dist.models.sources import find_model
from splitcom_dist.roles.body import WholeBody, WholePassing
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.roles.shard import ShardRole
from splitcom_dist.telemetry.hdf5 import read

started = test_lost.runs  # a fixture
FAMILIES = ["gpt2", "llama", "llama_tied", "qwen2", "mistral", "opt", "gpt_neox"]


def keep(folder: Path) -> Callable[[], None]:
    """Let every shard write into `folder`, when it has run: its adapter, the bytes of all its tensors behind the first
    forward and at the end, and by how many bytes the memory of its own that is resident has grown meanwhile."""
    behind_forward: list[int] = []

    def watch(role: type) -> None:
        original = role.run  # type: ignore[attr-defined]

        def run(self: Any) -> None:
            before = resident()
            original(self)
            held, grown = max(tensor_bytes(), *behind_forward), resident() - before
            values = {"adapter": flatten(self.parameters), "held": torch.tensor(held), "grown": torch.tensor(grown)}
            save_file(values, folder / f"rank_{self.context.world.rank}.safetensors")

        role.run = run  # type: ignore[attr-defined]

    def patch() -> None:
        watch(ServerRole)
        watch(ShardRole)
        original = WholeBody.forward

        def forward(self: WholeBody, *arguments: Any) -> WholePassing:
            passing = original(self, *arguments)
            if not behind_forward:
                behind_forward.append(tensor_bytes())
            return passing

        WholeBody.forward = forward  # type: ignore[method-assign, assignment]

    return patch


def tensor_bytes() -> int:
    """Of all tensors that Python knows; what autograd keeps for a backward is not among them."""
    gc.collect()
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if isinstance(tensor, torch.Tensor) and not hasattr(tensor, "to_local")  # which only stands for slices
    }
    return sum(storages.values())


def resident() -> int:
    """Bytes, without those of mapped files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def kept(folder: Path, name: str) -> list[int]:
    """A size of every shard, in the order of ranks."""
    return [int(load_file(file)[name]) for file in sorted(folder.glob("rank_*.safetensors"))]


def run_shards(shards: int, overrides: list[str], folder: Path, servers: int = 1) -> Path:
    """Train with so many, see that all end with the same bits, and return the run directory."""
    folder.mkdir()
    ranks = [f"roles.server_ranks={servers}", f"roles.server_shards={shards}"]
    outcome = run_command(["train", *overrides, *ranks, "--out", str(folder / "run")], before=keep(folder))
    assert outcome.code == 0, outcome.stderr
    assert "Warning" not in outcome.stderr, outcome.stderr
    first, *others = (load_file(file)["adapter"] for file in folder.glob("rank_*.safetensors"))
    assert len(others) == servers * shards - 1 and all(torch.equal(first, other) for other in others)
    return folder / "run"


def losses(run: Path, tail: int) -> list[float]:
    rows = read(run / "run.h5", "train")
    return u_shape_losses(rows) if tail else rows[rows["client"] == -1]["loss"].tolist()


def assert_same(runs: list[Path], tail: int = 0) -> None:
    one, other = runs
    assert_same_adapters(one, other)
    np.testing.assert_allclose(losses(one, tail), losses(other, tail), rtol=1e-5)


@pytest.mark.parametrize("tail", [0, 1], ids=["standard", "u_shape"])
@pytest.mark.parametrize(
    ("family", "clients", "optimizer"),
    [
        ("gpt2", 3, "sgd"),
        pytest.param("llama", 1, "adamw", marks=pytest.mark.long),
    ],
)
def test_two_shards_equal_one_and_one_process(
    family: str, clients: int, optimizer: str, tail: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = settings(model_folders[family], clients, 1, optimizer, tail)
    runs = [run_shards(shards, overrides, tmp_path / str(shards)) for shards in (1, 2)]
    assert_same(runs, tail)
    assert_same_run(runs[1], load_config([], overrides))


@pytest.mark.long
@pytest.mark.parametrize("tail", [0, 1], ids=["standard", "u_shape"])
def test_two_servers_of_two_shards_equal_one_process_every_time(
    tail: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = settings(model_folders["llama"], 3, 1, "sgd", tail)
    runs = [run_shards(2, overrides, tmp_path / name, servers=2) for name in ("one", "again")]
    assert_same_run(runs[0], load_config([], overrides))
    saved = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in runs]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0]), "the order of every sum is fixed"


@pytest.mark.parametrize("tail", [0, pytest.param(1, marks=pytest.mark.long)], ids=["standard", "u_shape"])
def test_a_shard_that_gets_no_sample_changes_nothing(tail: int, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Batches of two on three shards; 9 samples, so that one batch of an epoch has one."""
    overrides = [*settings(model_folders["llama_tied"], 1, 1, "adamw", tail), "data.train_samples=9"]
    overrides += ["train.batch_size=2"]
    assert_same([run_shards(shards, overrides, tmp_path / str(shards)) for shards in (1, 3)], tail)


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, "float32") for family in FAMILIES), ("gpt2", "bfloat16"), ("llama", "bfloat16")]
)
def test_every_family_can_be_shared(family: str, dtype: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    overrides = [*settings(model_folders[family], 1, 2, "adamw"), f"model.dtype={dtype}", "train.epochs=1"]
    runs = [run_shards(shards, overrides, tmp_path / str(shards)) for shards in (1, 2)]
    if dtype == "float32":
        assert_same(runs)
    np.testing.assert_allclose(losses(runs[0], 0), losses(runs[1], 0), rtol=1e-5 if dtype == "float32" else 1e-2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("servers", "overrides"),
    [
        (1, ["codec=frozen"]),
        (2, ["codec=video", "rest.policy=every_k", "rest.every=2"]),
        (1, ["codec=video", "shape=u_shape", "fed.adapter_quantizer=int8"]),
        (2, ["codec=splitcom_all", "shape=u_shape", "control=bang_bang", "rest.policy=gain"]),
        (1, ["codec=splitcom", "fed.participation=0.5", "fed.every=1"]),
        (2, ["codec=splitcom", "fed.participation=0.5", "fed.every=1"]),
    ],
)
def test_the_books_of_shards_are_honest(
    servers: int, overrides: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever heads do, the shards know it; what they tell each other is not traffic over the cut."""
    ranks = [f"roles.server_ranks={servers}", "roles.server_shards=2"]
    outcome = train(model_folders["llama"], tmp_path / "run", *ranks, *overrides)
    assert outcome.code == 0, outcome.stderr
    u_shape = "shape=u_shape" in overrides
    summary = check_books(tmp_path / "run", int(u_shape), int8="fed.adapter_quantizer=int8" in overrides)
    assert summary["ppl"] < summary["untuned_ppl"]
    assert len(read(tmp_path / "run" / "run.h5", "gradients")) == (30 if servers == 2 else 0)


@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_weights_and_bytes_are_those_of_the_dry_run(shape: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """On three shards no weight of this model divides evenly."""
    values = overrides(model_folders["llama"], shape, "none", "roles.server_shards=3")
    assert run_command(["train", *values, "--out", str(tmp_path / "run")]).code == 0
    summary, config = json.loads((tmp_path / "run" / "summary.json").read_text()), load_config([], values)
    source, schedule, links = predicted(config)
    assert all(count.most == summary["links"][link]["wire_bytes"] for link, count in links.items())
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]
    expected = [sum(held) for held in held_by(config, source, layout_for(config))]
    assert [rank["weights_bytes"] for rank in summary["ranks"]] == expected
    assert len(set(expected[1:4])) == 1
    outcome = run_command(["train", *values, "--dry-run"])
    assert "rank 3 (server 0, shard 2)" in outcome.stdout and "5 ranks;" in outcome.stdout


def wide_model(like: Path, folder: Path, width: int) -> Path:
    """A model of the family in `like` whose weights outweigh everything else a run holds."""
    config = transformers.AutoConfig.from_pretrained(like)
    config.hidden_size, config.intermediate_size = width, 4 * width
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    find_model(str(like)).tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.long
def test_each_shard_keeps_its_part_of_the_weights_only(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights that a forward or a backward brought together are gone behind it."""
    model = wide_model(model_folders["llama"], tmp_path / "wide", 256)
    values = [*settings(model, 1, 1, "sgd"), "data.train_samples=8", "train.epochs=1"]
    shown = {}
    for shards in (1, 3):
        run = run_shards(shards, values, tmp_path / str(shards))
        shown[shards] = json.loads((run / "summary.json").read_text())["ranks"][1]["weights_bytes"]
    (alone,), shared = kept(tmp_path / "1", "held"), kept(tmp_path / "3", "held")
    adapter = load_file(tmp_path / "1" / "rank_1.safetensors")["adapter"].nbytes
    body = shown[1] - adapter
    assert (shown[3] - adapter) * 3 == pytest.approx(body, rel=0.01)
    assert all(held < alone - 0.9 * body * 2 / 3 for held in shared), (shared, alone, body)


@pytest.mark.long
def test_weights_that_a_pass_brought_together_leave_the_process(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """A freed tensor may stay resident for all that Python can tell."""
    model = wide_model(model_folders["llama"], tmp_path / "wide", 1024)
    values = [*settings(model, 1, 1, "sgd"), "data.train_samples=4", "train.epochs=1"]
    run = run_shards(4, values, tmp_path / "4")
    slices = json.loads((run / "summary.json").read_text())["ranks"][1]["weights_bytes"]
    grown = kept(tmp_path / "4", "grown")
    assert all(size < 4 * slices / 3 for size in grown), (grown, slices)


@pytest.mark.parametrize(
    "case",
    ["splitcom", pytest.param("u_video", marks=pytest.mark.long), pytest.param("bang_bang", marks=pytest.mark.long)],
)
def test_a_run_with_shards_that_was_stopped_goes_on_exactly(
    case: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_folders["gpt2"]
    values = [*test_resume.CASES[case], "resume=auto", "roles.server_shards=2"]
    assert train(model, tmp_path / "whole", *values).code == 0
    stopped = train(model, tmp_path / "run", *values, before=test_resume.at_step(6, signal.SIGTERM))
    assert stopped.code == 75, stopped.stderr
    with pytest.raises(UserError, match="server_shards=2, not 3"):
        stored = tmp_path / "run" / "config.yaml"
        check_same_run(load_config([stored], ["roles.server_shards=3"]), stored)
    assert train(model, tmp_path / "run", *values).code == 0
    test_resume.check_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("rank", "name"), [(4, "server 0, shard 2"), (2, "server 0, shard 0")])
@pytest.mark.parametrize(
    "fault", [test_mistakes.kill, pytest.param(test_mistakes.hang, marks=pytest.mark.long)], ids=["killed", "silent"]
)
def test_a_shard_that_is_lost_while_others_wait_for_its_slices_ends_the_run(
    rank: int, name: str, fault: Callable[[object], None], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    def act(self: object) -> None:
        if dist.get_rank() == rank:
            fault(self)

    before, started = test_mistakes.at_step(WholeBody, "forward_backward", act), time.monotonic()
    outcome = test_mistakes.train(model_folders["gpt2"], tmp_path / "run", "roles.server_shards=3", before=before)
    assert outcome.code in (1, 2) and time.monotonic() - started < 40
    assert outcome.stderr.count("error: ") == 1 and f"rank {rank} ({name})" in outcome.stderr, outcome.stderr


@pytest.mark.long
@pytest.mark.parametrize("shape", ["standard", "U-shape"])
def test_shards_go_on_without_a_client_that_is_lost_between_two_passes(
    shape: str, model_folders: dict[str, Path], tmp_path: Path, started: list[test_lost.Run]
) -> None:
    """In the U-shape its forward may have no backward; the others are served meanwhile, and it comes back."""
    changes = {"roles.server_shards": 2, **test_lost.SHAPES[shape]}
    run = test_lost.Run(tmp_path / "run", model_folders["gpt2"], **changes)
    started.append(run)
    for life in (1, 2, 3):
        steps = read(run.folder / "telemetry" / "rank_00003.h5", "train")["step"] if life > 1 else [0]
        run.wait_for_step(max(steps) + 4)
        os.kill(run.pid_of(1), signal.SIGKILL)
        test_lost.wait_until(run.process, lambda: len(run.events("back")) >= life)  # noqa: B023
    run.stop()
    assert len(run.events("lost")) >= 3
    served = read(run.folder / "telemetry" / "rank_00003.h5", "train")
    assert set(served["step"][served["client"] == 0]) == set(served["step"][served["client"] == 2])


def test_a_bug_in_a_shard_is_not_taken_for_a_lost_peer(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def patch() -> None:
        def broken(self: Any, portion: Portion, step: int) -> None:
            with self.shards.in_step("a pass"):
                torch.ones(2) @ torch.ones(3)

        ShardRole.forward_backward = broken  # type: ignore[method-assign]

    outcome = test_mistakes.train(model_folders["gpt2"], tmp_path / "run", "roles.server_shards=2", before=patch)
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("[W")]
    assert len(lines) == 1 and lines[0].startswith("error: rank 3 (server 0, shard 1): RuntimeError"), outcome.stderr
