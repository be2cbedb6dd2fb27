"""The oracle: with codec none a split run is the one-process run, loss by loss and adapter by adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from splitcom_dist import runner, shards
from splitcom_dist.config.files import load_config
from splitcom_dist.config.implied import head_trains
from splitcom_dist.config.schema import Config
from splitcom_dist.data.batching import collate
from splitcom_dist.data.examples import Example
from splitcom_dist.layout import layout_for
from splitcom_dist.models.lora import adapter_parameters, attach_lora, is_in_part
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.models.split import load_part, parts_of, whole
from splitcom_dist.roles.share import Share
from splitcom_dist.schedule import Schedule
from splitcom_dist.shards import training_shards
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.training import AdapterOptimizer
from splitcom_dist.world import World

STEPS = 20


def settings(model: Path, clients: int, cut: int, optimizer: str, tail: int = 0) -> list[str]:
    values: dict[str, object] = {
        "model.name": model,
        "model.cut_layer": cut,
        "model.tail_layers": tail,
        "lora.rank": 4,
        "data.max_length": 120,
        "data.overlong": "truncate",
        "data.train_samples": 40 * clients,
        "data.validation_samples": 8,
        "roles.client_ranks": clients,
        "fed.clients": clients,
        "fed.every": 1,
        "train.epochs": 2,
        "train.batch_size": 4,
        "train.optimizer": optimizer,
        "train.lr": 0.3
        if optimizer == "sgd"
        else 5e-3,  # at 0.5 rounding grows to 1e-5 with a tied LM head, split or not
        "train.max_grad_norm": 0,
        "telemetry.progress": False,
    }
    return [f"{key}={value}" for key, value in values.items()]


def one_process(config: Config) -> tuple[list[float], dict[str, Tensor]]:
    """The same batches in one process: every step's mean loss over all target tokens, and the final adapters.

    Where the clients' heads never train, neither do those blocks here.
    """
    source = find_model(config.model.name)
    base, seed = load_part(source, whole(source.block_count), torch.float32), config.train.seed
    model = attach_lora(base, config.lora, seed, next_to_cuts(config, source.block_count))
    layout = layout_for(config)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    sizes = tuple(len(shards[client]) for client in range(layout.clients))
    schedule = Schedule(layout, sizes, config.train.batch_size, config.train.epochs, 1, 1)
    parameters = adapter_parameters(model)
    body = parts_of(config.model.cut_layer, source.block_count, config.model.tail_layers)["body"]
    trained = [
        parameter
        for name, parameter in parameters.items()
        if head_trains(config) or is_in_part(name, source.config.model_type, body)
    ]
    optimizer = AdapterOptimizer(trained, config.train, schedule.total_steps)
    losses = []
    for step in range(schedule.total_steps):
        total, count = torch.zeros(()), 0
        for client in schedule.active_clients(step):
            batch = collate(schedule.batch(shards[client], client, step, config.train.seed))
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            for row, length, targets in zip(logits, batch.lengths.tolist(), batch.targets, strict=True):
                predicted = row[length - len(targets) : length]
                total = total + functional.cross_entropy(predicted, targets, reduction="sum")
                count += len(targets)
        (total / count).backward()
        optimizer.step()
        losses.append(float(total.detach()) / count)
    return losses, {name: parameter.detach() for name, parameter in parameters.items()}


def next_to_cuts(config: Config, block_count: int) -> list[int]:
    """The blocks either side of the cut, and in the U-shape of the second one."""
    cut, tail = config.model.cut_layer, config.model.tail_layers
    return sorted({cut - 1, cut} | ({block_count - tail - 1, block_count - tail} if tail else set()))


def u_shape_losses(rows: np.ndarray) -> list[float]:
    """Every step's mean loss over all target tokens, from the clients that know it."""
    known = rows[~np.isnan(rows["loss"])]
    steps = [known[known["step"] == step] for step in np.unique(known["step"])]
    return [float(np.average(step["loss"], weights=step["target_tokens"])) for step in steps]


def assert_same_run(out: Path, config: Config, steps: int = STEPS) -> None:
    losses, adapters = one_process(config)
    assert len(losses) == steps
    rows = read(out / "run.h5", "train")
    split_losses = u_shape_losses(rows) if config.model.tail_layers else rows[rows["client"] == -1]["loss"]
    np.testing.assert_allclose(split_losses, losses, rtol=1e-5)
    assert losses[-1] < losses[0] * 0.95, "training must move, or equality says nothing"
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    assert len(saved) == len(adapters)
    for name, expected in adapters.items():
        found = saved["base_model.model." + name.replace(".default.", ".")]
        error = (found - expected).norm()
        assert error <= 1e-5 * expected.norm(), f"{name}: relative error {error / expected.norm():.1e}"


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("clients", "optimizer"), [(1, "adamw"), (3, "sgd")])
def test_split_run_equals_one_process(
    family: str, clients: int, optimizer: str, cut: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = settings(model_folders[family], clients, cut, optimizer)
    outcome = run_command(["train", *overrides, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    assert_same_run(tmp_path / "run", load_config([], overrides))


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama_tied"])  # GPT-2 ties its LM head too
@pytest.mark.parametrize(("clients", "optimizer"), [(1, "adamw"), (3, "sgd")])
def test_u_shape_equals_one_process(
    family: str, clients: int, optimizer: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = settings(model_folders[family], clients, 1, optimizer, tail=1)
    outcome = run_command(["train", *overrides, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    assert_same_run(tmp_path / "run", load_config([], overrides))


def forbid_training_text() -> None:
    """Fail where a rank that holds no client reads the training split."""
    load, load_share = shards.load, runner.load_share  # type: ignore[attr-defined]

    def share_of(config: Config, world: World, source: ModelSource, device: torch.device) -> Share:
        def watched(name: str, path: str | None, split: str, **limits: int) -> list[Example]:
            assert split != "train" or world.rank < 3, f"rank {world.rank} reads training text"
            return load(name, path, split, **limits)

        shards.load = watched  # type: ignore[attr-defined, assignment]
        return load_share(config, world, source, device)

    runner.load_share = share_of  # type: ignore[attr-defined]


@pytest.mark.parametrize("tail", [0, pytest.param(1, marks=pytest.mark.long)], ids=["standard", "u_shape"])
def test_very_unequal_shards_equal_one_process(tail: int, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """One client has the most of every epoch to itself; the learning rate is that of the step, whoever has a batch."""
    overrides = settings(model_folders["gpt2"], 3, 1, "sgd", tail)
    overrides += ["data.partition=dirichlet_length", "data.alpha=0.1", "data.classes=4", "data.min_shard=4"]
    config = load_config([], overrides)
    sizes = [
        len(shard) for shard in training_shards(config, find_model(config.model.name).tokenizer(), range(3)).values()
    ]
    assert max(sizes) > 4 * min(sizes), sizes
    outcome = run_command(["train", *overrides, "--out", str(tmp_path / "run")], before=forbid_training_text)
    assert outcome.code == 0, outcome.stderr
    assert_same_run(tmp_path / "run", config, steps=2 * -(-max(sizes) // 4))
    rounds = read(tmp_path / "run" / "run.h5", "rounds")
    assert set(rounds["participants"].tolist()) == {0, 1}, "some steps lack a client"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("family", "cut", "tail", "lower"),
    [("llama", 1, 0, {0, 1}), ("gpt2", 2, 1, {1, 2, 3})],
    ids=["standard", "u_shape"],
)
def test_a_lower_rank_at_the_cut_equals_one_process(
    family: str, cut: int, tail: int, lower: set[int], optimizer: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The export is what peft loads: it names the ranks, and evaluates to the perplexity that the run ended with."""
    clients, run = 1 if optimizer == "adamw" else 3, tmp_path / "run"
    overrides = [*settings(model_folders[family], clients, cut, optimizer, tail), "lora.cut_rank=2"]
    if optimizer == "sgd":  # alpha / 2 is twice alpha / 4, and with what a step changes grows what rounding does
        overrides += ["train.lr=0.15"]
    outcome = run_command(["train", *overrides, "--out", str(run)])
    assert outcome.code == 0, outcome.stderr
    assert_same_run(run, load_config([], overrides))
    for name, tensor in load_file(run / "adapter" / "adapter_model.safetensors").items():
        found = tensor.shape[0 if ".lora_A." in name else 1]
        block = int(next(part for part in name.split(".") if part.isdigit()))
        assert found == (2 if block in lower else 4), name
    outcome = run_command(["evaluate", str(run), "--no-generation"])
    assert outcome.code == 0, outcome.stderr
    evaluated, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("evaluation", "summary"))
    assert evaluated["ppl"] == pytest.approx(summary["ppl"], rel=1e-6)
    assert summary["ppl"] < 0.95 * summary["untuned_ppl"]
