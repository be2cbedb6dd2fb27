"""Clients of unequal ranks: a run is what one process computes that gives each its share of the adapter in turn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import next_to_cuts, settings, u_shape_losses
from test_predict import predicted, predicted_adapters
from torch import Tensor
from torch.nn import functional

from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.models.lora import adapter_parameters, attach_lora, is_in_part
from splitcom_dist.models.split import load_part, parts_of, whole
from splitcom_dist.shards import training_shards
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.training import AdapterOptimizer

Adapter = dict[str, Tensor]


def summed_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    logits, total = model(input_ids=batch.input_ids, use_cache=False).logits, torch.zeros(())
    for row, length, targets in zip(logits, batch.lengths.tolist(), batch.targets, strict=True):
        total = total + functional.cross_entropy(row[length - len(targets) : length], targets, reduction="sum")
    return total


def share(adapter: Adapter, rank: int) -> Adapter:
    """With zeros for what is above the rank."""
    held = {name: tensor.clone() for name, tensor in adapter.items()}
    for name, tensor in held.items():
        (tensor if ".lora_A." in name else tensor.T)[rank:] = 0
    return held


def averaged(clients: list[tuple[Adapter, int]], how: str) -> Adapter:
    """By the definition of each: products and their singular values in full, in float64."""
    total, mean = sum(weight for _, weight in clients), {}
    for name in clients[0][0]:
        if how == "zero_pad":
            mean[name] = torch.stack([weight / total * adapter[name] for adapter, weight in clients]).sum(0)
        elif ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            changes = [weight / total * own[other].double() @ own[name].double() for own, weight in clients]
            u, s, vh = torch.linalg.svd(torch.stack(changes).sum(0), full_matrices=False)
            rank = len(clients[0][0][name])
            mean |= {name: vh[:rank].float(), other: (u * s)[:, :rank].float()}
    return mean


def one_process(config: Config) -> tuple[list[float], Adapter]:
    """Plain SGD, averaging after every step: every step's mean loss, and the final adapter of all blocks."""
    (source, schedule, _), seed = predicted(config), config.train.seed
    shards = training_shards(config, source.tokenizer(), range(config.fed.clients))
    base = load_part(source, whole(source.block_count), torch.float32)
    model = attach_lora(base, config.lora, seed, next_to_cuts(config, source.block_count))
    body = parts_of(config.model.cut_layer, source.block_count, config.model.tail_layers)["body"]
    parameters, model_type = adapter_parameters(model), source.config.model_type
    of_server = [p for name, p in parameters.items() if is_in_part(name, model_type, body)]
    of_clients = {name: p for name, p in parameters.items() if not is_in_part(name, model_type, body)}
    optimizer = AdapterOptimizer(of_server, config.train, schedule.total_steps)
    mean = {name: parameter.data.clone() for name, parameter in of_clients.items()}
    assert config.lora.ranks is not None
    losses = []
    for step in range(schedule.total_steps):
        trained, summed, lr = [], 0.0, optimizer.lr
        for client in schedule.active_clients(step):
            for name, tensor in share(mean, config.lora.ranks[client]).items():
                of_clients[name].data, of_clients[name].grad = tensor, None
            batch = collate(schedule.batch(shards[client], client, step, seed))
            loss, targets = summed_loss(model, batch), sum(map(len, batch.targets))
            loss.backward()
            summed += float(loss.detach())
            stepped = {name: p.data - lr / targets * p.grad for name, p in of_clients.items() if p.grad is not None}
            trained.append((stepped, targets))
        before, highest = mean, max(config.lora.ranks[client] for client in schedule.active_clients(step))
        mean, count = averaged(trained, config.fed.rank_aggregation), sum(targets for _, targets in trained)
        if config.fed.rank_aggregation == "zero_pad":
            held = share({name: torch.ones_like(tensor) for name, tensor in mean.items()}, highest)
            mean = {name: torch.where(held[name] == 0, before[name], tensor) for name, tensor in mean.items()}
        for parameter in of_server:
            assert parameter.grad is not None
            parameter.grad /= count
        optimizer.step()
        losses.append(summed / count)
    return losses, {name: mean.get(name, parameter.detach()) for name, parameter in parameters.items()}


def changes(adapter: Adapter) -> Adapter:
    """B A of every weight."""
    ends = [name for name in adapter if ".lora_A." in name]
    return {name: adapter[name.replace(".lora_A.", ".lora_B.")] @ adapter[name] for name in ends}


@pytest.mark.parametrize(
    ("how", "ranks", "tail", "more"),
    [
        ("zero_pad", [3, 2, 1], 0, []),  # the last of the adapter's four rows is nobody's, and stays as it was
        ("svd", [4, 2, 1], 0, ["roles.client_ranks=2"]),
        ("svd", [2, 1, 1], 1, ["lora.rank=5", "lora.cut_rank=3"]),  # together fewer than the adapter has
    ],
    ids=["zero_pad", "svd", "svd_u_shape"],
)
def test_a_run_is_what_one_process_computes(
    how: str, ranks: list[int], tail: int, more: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Factors after zero padding; after SVD products, for the signs of singular vectors are nobody's."""
    overrides = [*settings(model_folders["llama"], 3, 1, "sgd", tail), "train.epochs=1", f"lora.ranks={ranks}"]
    overrides += ["train.lr=0.15"]  # at 0.3 rounding grows to 1e-4 in products, split or not
    overrides += [f"fed.rank_aggregation={how}", *more]
    outcome = run_command(["train", *overrides, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    config = load_config([], overrides)
    losses, expected = one_process(config)
    rows = read(tmp_path / "run" / "run.h5", "train")
    np.testing.assert_allclose(u_shape_losses(rows) if tail else rows[rows["client"] == -1]["loss"], losses, rtol=1e-5)
    assert losses[-1] < losses[0] * 0.95, "training must move, or equality says nothing"
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    found = {name: saved["base_model.model." + name.replace(".default.", ".")] for name in expected}
    if how == "svd":
        found, expected = changes(found), changes(expected)
    for name, tensor in expected.items():
        error = (found[name] - tensor).norm() / tensor.norm()
        assert error <= 1e-5, f"{name}: relative error {error:.1e}"
    source, schedule, _ = predicted(config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]
