"""What a dry run predicts is what the run then sends: to the byte, or between two bounds that gates can reach."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_command

from splitcom_dist.config.files import load_config, preset_folder
from splitcom_dist.config.schema import Config
from splitcom_dist.layout import layout_for
from splitcom_dist.models.lora import adapter_parameters, attach_lora
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.models.split import cut_blocks, load_part, parts_of, trained_by_clients
from splitcom_dist.predict import LinkBytes, predict_adapters, predict_links
from splitcom_dist.schedule import Schedule, schedule_for
from splitcom_dist.shards import training_shards
from splitcom_dist.telemetry.summary import megabytes

BOTH_SHAPES = ["standard", pytest.param("u_shape", marks=pytest.mark.long)]


def overrides(model: Path, shape: str, codec: str, *extra: str) -> list[str]:
    values = {
        "model.name": model,
        "model.cut_layer": 1,
        "shape": shape,
        "codec": codec,
        "data.max_length": 120,
        "data.train_samples": 31,
        "data.validation_samples": 4,
        "roles.client_ranks": 1,
        "fed.clients": 2,
        "fed.every": 3,
        "train.epochs": 3,
        "train.batch_size": 4,
        "telemetry.progress": False,
    }
    return [*(f"{key}={value}" for key, value in values.items()), *extra]


def trained(settings: list[str], out: Path) -> tuple[dict[str, Any], Config]:
    """The summary of a run, and its configuration."""
    outcome = run_command(["train", *settings, "--out", str(out)])
    assert outcome.code == 0, outcome.stderr
    return json.loads((out / "summary.json").read_text()), load_config([], settings)


def predicted(config: Config) -> tuple[ModelSource, Schedule, dict[str, LinkBytes]]:
    source, layout = find_model(config.model.name), layout_for(config)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    return source, schedule, predict_links(config, source, schedule, shards)


def predicted_adapters(config: Config, source: ModelSource, schedule: Schedule) -> int:
    parts = parts_of(config.model.cut_layer, source.block_count, config.model.tail_layers)
    elements, factors = {}, [0] * config.fed.clients
    at_cut, ranks = cut_blocks(config, source.block_count), config.lora.ranks or [99] * config.fed.clients
    for name, part in parts.items():
        model = attach_lora(load_part(source, part, torch.float32), config.lora, 0, at_cut)
        shapes = [parameter.shape for parameter in adapter_parameters(model).values()]
        elements[name] = sum(shape.numel() for shape in shapes)
        for client, rank in enumerate(ranks if name in trained_by_clients(config) else ()):
            factors[client] += sum(
                min(rank, a[0]) * (a[1] + b[0]) for a, b in zip(shapes[::2], shapes[1::2], strict=True)
            )
    of_clients = sum(elements[name] for name in trained_by_clients(config))
    return predict_adapters(config, schedule, of_clients, elements["body"], factors=factors)


@pytest.mark.parametrize("shape", ["standard", "u_shape"])
@pytest.mark.parametrize(
    "codec",
    [
        "none",
        "int8",
        *(pytest.param(codec, marks=pytest.mark.long) for codec in ("frozen", "aqsgd", "splitlite", "tah")),
    ],
)
def test_ungated_runs_send_exactly_what_was_predicted(
    codec: str, shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = overrides(model_folders["llama"], shape, codec)
    summary, config = trained(settings, tmp_path / "run")
    source, schedule, links = predicted(config)
    assert set(links) == set(summary["links"])
    for link, count in links.items():
        found = summary["links"][link]
        assert count.least == count.most == found["wire_bytes"], link
        assert (count.raw_padded, count.raw_real) == (found["raw_padded_bytes"], found["raw_real_bytes"])
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]


@pytest.mark.parametrize("shape", BOTH_SHAPES)
@pytest.mark.parametrize(
    "rest",
    [
        ["rest.policy=freeze_after", "rest.epochs=0"],
        ["rest.policy=freeze_after", "rest.epochs=1"],
        ["rest.policy=every_k", "rest.every=2"],
    ],
    ids="_".join,
)
def test_resting_runs_send_exactly_what_was_predicted(
    rest: list[str], shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """At theta = 1 no sample is skipped; INT8 adapters with their announcements are foreseen as well."""
    thetas = [f"codec.{link}.theta=1" for link in ("up_activation", "down_activation", "up_gradient", "down_gradient")]
    settings = overrides(
        model_folders["llama"], shape, "splitcom_all_int8", *thetas, *rest, "fed.adapter_quantizer=int8"
    )
    summary, config = trained(settings, tmp_path / "run")
    source, schedule, links = predicted(config)
    for link, count in links.items():
        found = summary["links"][link]
        assert count.most == found["wire_bytes"], link
        assert (count.raw_padded, count.raw_real) == (found["raw_padded_bytes"], found["raw_real_bytes"])
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]


def test_the_adapters_of_a_lower_rank_at_the_cut_are_foreseen(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """In the dry run as well, which counts without weights."""
    settings = overrides(model_folders["llama"], "u_shape", "none", "lora.cut_rank=3", "train.epochs=1")
    summary, config = trained(settings, tmp_path / "run")
    source, schedule, _ = predicted(config)
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]
    config.lora.cut_rank = None
    assert predicted_adapters(config, source, schedule) > summary["adapter_bytes"]
    outcome = run_command(["train", *settings, "--dry-run"])
    assert f"adapters {megabytes(summary['adapter_bytes'])}" in " ".join(outcome.stdout.split()), outcome.stdout


@pytest.mark.long
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
@pytest.mark.parametrize("quantizer", ["none", "int8"])
def test_the_gradients_of_several_servers_are_foreseen(
    quantizer: str, shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    ranks = ["roles.client_ranks=2", "roles.server_ranks=2", f"fed.adapter_quantizer={quantizer}"]
    settings = overrides(model_folders["gpt2"], shape, "none", *ranks)
    summary, config = trained(settings, tmp_path / "run")
    source, schedule, links = predicted(config)
    assert all(count.most == summary["links"][link]["wire_bytes"] for link, count in links.items())
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]


@pytest.mark.long
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
@pytest.mark.parametrize("codec", ["none", "int8", "frozen", "aqsgd"])
def test_runs_that_draw_their_clients_send_what_was_predicted(
    codec: str, shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    ranks = ["roles.client_ranks=2", "fed.clients=5", "fed.participation=0.4", "fed.adapter_quantizer=int8"]
    settings = overrides(model_folders["llama"], shape, codec, *ranks, "fed.every=1", "train.epochs=5")
    summary, config = trained(settings, tmp_path / "run")
    source, schedule, links = predicted(config)
    for link, count in links.items():
        found = summary["links"][link]
        assert count.least == count.most == found["wire_bytes"], link
        assert (count.raw_padded, count.raw_real) == (found["raw_padded_bytes"], found["raw_real_bytes"])
    assert predicted_adapters(config, source, schedule) == summary["adapter_bytes"]


@pytest.mark.long
@pytest.mark.parametrize("codec", ["splitcom_all", "video"])
def test_gated_runs_that_draw_their_clients_stay_within_their_bounds(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    draws = ["fed.clients=4", "fed.participation=0.5", "fed.every=1"]
    settings = overrides(model_folders["gpt2"], "u_shape", codec, *draws, "train.epochs=5")
    outcome = run_command(["train", *settings, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for link, count in predicted(load_config([], settings))[2].items():
        assert count.least <= summary["links"][link]["wire_bytes"] <= count.most, link
        assert count.raw_real == summary["links"][link]["raw_real_bytes"]


@pytest.mark.parametrize("shape", BOTH_SHAPES)
def test_entropy_coded_runs_stay_within_their_bounds(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = overrides(model_folders["llama"], shape, "video")
    outcome = run_command(["train", *settings, "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for link, count in predicted(load_config([], settings))[2].items():
        assert count.least < summary["links"][link]["wire_bytes"] < 0.5 * count.most, link


@pytest.mark.parametrize(("theta", "bound"), [(-1.0, "least"), (1.0, "most")])
def test_a_gate_reaches_the_bounds(theta: float, bound: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    links = ("up_activation", "down_activation", "up_gradient", "down_gradient")
    thetas = [f"codec.{link}.theta={theta}" for link in links]
    settings = overrides(model_folders["gpt2"], "u_shape", "splitcom_all_int8", *thetas)
    summary, config = trained(settings, tmp_path / "run")
    for link, count in predicted(config)[2].items():
        assert count.least < count.most
        assert getattr(count, bound) == summary["links"][link]["wire_bytes"], link


@pytest.mark.parametrize("control", ["fixed", "bang_bang", "ddpg", "byte_budget"])
@pytest.mark.parametrize("codec", ["fp16", "int8", "splitcom", "splitcom_int8", "splitcom_all", "splitcom_all_int8"])
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_the_whole_grid_of_the_paper_resolves(shape: str, codec: str, control: str) -> None:
    for model in ("gpt2", "gpt2_xl"):
        for data in ("e2e", "dart", "webnlg"):
            file = preset_folder() / "experiment" / f"splitcom_{model}.yaml"
            settings = [f"shape={shape}", f"codec={codec}", f"data={data}"]
            settings += [f"control={control}"] if codec.startswith("splitcom") else []
            config = load_config([file], settings)
            assert (config.fed.clients, config.model.cut_layer, config.train.batch_size) == (10, 3, 8)
            assert (config.lora.rank, config.train.epochs) == {"gpt2": (8, 50), "gpt2_xl": (24, 10)}[model]
            assert (config.data.name, config.data.max_length) == (data, 512)


def test_a_dry_run_prints_the_bytes_and_trains_nothing(model_folders: dict[str, Path], tmp_path: Path) -> None:
    settings = overrides(model_folders["gpt2"], "u_shape", "splitcom_all_int8")
    outcome = run_command(["train", *settings, "--out", str(tmp_path / "run"), "--dry-run"])
    assert outcome.code == 0 and not (tmp_path / "run").exists()
    for text in ("rank 0 (client 0,1)", "0..0, 3..3", "up_gradient", "if no sample is skipped", "4 steps an epoch"):
        assert text in outcome.stdout, text
