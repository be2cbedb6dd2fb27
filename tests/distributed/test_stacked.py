"""Averages that are merged into the frozen weights (FLoRA): a run is what one process computes with dense weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import next_to_cuts, settings, u_shape_losses
from test_predict import predicted, predicted_adapters
from test_rank_aggregation import Adapter, share, summed_loss
from torch import Tensor, nn

from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.data.batching import collate
from splitcom_dist.evaluation.subject import with_adapter
from splitcom_dist.metrics.perplexity import perplexity
from splitcom_dist.models.lora import adapter_parameters, attach_lora, fresh_a, is_in_part
from splitcom_dist.models.split import load_part, parts_of, whole
from splitcom_dist.shards import training_shards, validation_samples
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.training import AdapterOptimizer

A, B = (f".lora_{end}.default.weight" for end in "AB")


class OneProcess:
    """All clients in turn on one whole model; `changes` (out, in), float64, are what its weights have taken in."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source, self.schedule, _ = predicted(config)
        base = load_part(self.source, whole(self.source.block_count), torch.float32)
        at_cut = next_to_cuts(config, self.source.block_count)
        self.model: Any = attach_lora(base, config.lora, config.train.seed, at_cut)
        parts = parts_of(config.model.cut_layer, self.source.block_count, config.model.tail_layers)
        parameters, model_type = adapter_parameters(self.model), self.source.config.model_type
        self.of_server = {name: p for name, p in parameters.items() if is_in_part(name, model_type, parts["body"])}
        self.of_clients = {name: p for name, p in parameters.items() if name not in self.of_server}
        self.layers = {name.removesuffix(A): self.of_clients[name] for name in self.of_clients if name.endswith(A)}
        self.before = {name: self.weight(name).double() for name in self.layers}
        self.changes = {name: torch.zeros(()) for name in self.layers}
        self.mean: Adapter = {name: parameter.data.clone() for name, parameter in self.of_clients.items()}

    def weight(self, layer: str) -> Tensor:
        """(out, in), a view."""
        base = self.model.get_submodule(layer).base_layer
        weight: Tensor = base.weight.data
        return weight if isinstance(base, nn.Linear) else weight.T

    def run(self) -> list[float]:
        """Every step's mean loss."""
        schedule, train, seed = self.schedule, self.config.train, self.config.train.seed
        shards = training_shards(self.config, self.source.tokenizer(), range(self.config.fed.clients))
        servers = AdapterOptimizer(list(self.of_server.values()), train, schedule.total_steps)
        optimizers: dict[int, torch.optim.Optimizer] = {}
        own: dict[int, dict[str, nn.Parameter]] = {}
        weights: dict[int, int] = {}
        losses = []
        for step in range(schedule.total_steps):
            summed, count = 0.0, 0
            for client in schedule.active_clients(step):
                if client not in own:
                    held = share(self.mean, (self.config.lora.ranks or [99] * 99)[client])
                    own[client] = {name: nn.Parameter(tensor) for name, tensor in held.items()}
                    kind = torch.optim.SGD if train.optimizer == "sgd" else torch.optim.AdamW
                    optimizers[client] = kind(own[client].values(), lr=train.lr, weight_decay=train.weight_decay)
                batch = collate(schedule.batch(shards[client], client, step, seed))
                targets = sum(map(len, batch.targets))
                for name, parameter in self.of_clients.items():
                    parameter.data, parameter.grad = own[client][name].data, None
                loss = summed_loss(self.model, batch)
                loss.backward()
                for name, parameter in self.of_clients.items():
                    own[client][name].grad = None if parameter.grad is None else parameter.grad / targets
                for group in optimizers[client].param_groups:
                    group["lr"] = servers.lr
                optimizers[client].step()
                weights[client] = weights.get(client, 0) + targets
                summed, count = summed + float(loss.detach()), count + targets
            servers.step_on_mean(count)
            losses.append(summed / count)
            if schedule.averages_after(step):
                self.merge(own, weights, step)
                own, weights = {}, {}
        return losses

    def merge(self, own: dict[int, dict[str, nn.Parameter]], weights: dict[int, int], step: int) -> None:
        total = sum(weights.values())
        for layer, a in self.layers.items():
            for client, theirs in own.items():
                product = theirs[layer + B].data.double() @ theirs[layer + A].data.double()
                change = self.config.lora.alpha / len(a) * weights[client] / total * product
                self.changes[layer] = self.changes[layer] + change
            self.weight(layer).copy_(self.before[layer] + self.changes[layer])
            self.mean[layer + A] = fresh_a(a.shape, f"{self.config.train.seed} {layer} {step}")
            self.mean[layer + B].zero_()


def exported(out: Path, layer: str) -> Tensor:
    """The change (out, in) that the adapter of a run makes to a layer, as PEFT scales it."""
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{layer}.lora_{end}.weight"] for end in "AB")
    told = json.loads((out / "adapter" / "adapter_config.json").read_text())
    scale: float = told["alpha_pattern"][layer] / told["rank_pattern"][layer]
    return scale * (b.double() @ a.double())


@pytest.mark.parametrize(
    ("family", "optimizer", "tail", "more"),
    [
        ("llama", "sgd", 0, ["lora.ranks=[4,2,1]"]),
        pytest.param("gpt2", "adamw", 0, ["fed.every=3", "roles.client_ranks=2"], marks=pytest.mark.long),
        ("llama", "adamw", 0, ["lora.ranks=[4,2,1]", "fed.every=4", "fed.participation=0.67", "lora.cut_rank=3"]),
        pytest.param(
            *("gpt2", "sgd", 1, ["fed.every=2", "roles.client_ranks=2", "fed.resident=1"]), marks=pytest.mark.long
        ),
    ],
    ids=["unequal_sgd", "equal_adamw", "unequal_adamw_drawn", "equal_u_shape"],
)
def test_a_run_is_what_one_process_computes(
    family: str, optimizer: str, tail: int, more: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = [*settings(model_folders[family], 3, 1, optimizer, tail), "train.epochs=1"]
    overrides += ["fed.rank_aggregation=stack", *(["train.lr=0.15"] if optimizer == "sgd" else []), *more]
    outcome = run_command(["train", *overrides, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    config = load_config([], overrides)
    expected = OneProcess(config)
    losses = expected.run()
    rows = read(tmp_path / "run" / "run.h5", "train")
    np.testing.assert_allclose(u_shape_losses(rows) if tail else rows[rows["client"] == -1]["loss"], losses, rtol=1e-5)
    assert losses[-1] < losses[0] * 0.95, "training must move, or equality says nothing"
    for layer, change in expected.changes.items():
        error = (exported(tmp_path / "run", layer) - change).norm() / change.norm()
        assert error <= 1e-5, f"{layer}: relative error {error:.1e}"
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    for name, parameter in expected.of_server.items():
        found = saved["base_model.model." + name.replace(".default.", ".")]
        error = (found - parameter).norm() / parameter.norm()
        assert error <= 1e-5, f"{name}: relative error {error:.1e}"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert predicted_adapters(config, expected.source, expected.schedule) == summary["adapter_bytes"]
    tuned = with_adapter(expected.source, tmp_path / "run" / "adapter")
    quality = perplexity(tuned, validation_samples(config, expected.source.tokenizer()), config.eval.batch_size)
    assert quality.ppl == pytest.approx(summary["ppl"], rel=1e-5)
