"""Whole runs as real processes: every codec, several clients a rank, honest books, an adapter others can load."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import Outcome, run_command
from safetensors.torch import load_file

from splitcom_dist.codec.wire import HEADER
from splitcom_dist.config_files import load_config
from splitcom_dist.links import LINKS
from splitcom_dist.metrics.perplexity import perplexity
from splitcom_dist.models.sources import find_model
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.shards import validation_samples
from splitcom_dist.telemetry.hdf5 import read

EPOCHS, CLIENTS, SAMPLES = 3, 3, 50  # 50 samples on 3 clients: shards of 17, 17 and 16


def train(model: Path, out: Path, *extra: str, **kwargs: object) -> Outcome:
    settings = {
        "model.name": model,
        "model.cut_layer": 2,
        "lora.rank": 4,
        "data.max_length": 120,
        "data.train_samples": SAMPLES,
        "data.validation_samples": 12,
        "roles.client_ranks": 2,
        "fed.clients": CLIENTS,
        "fed.every": 3,
        "train.epochs": EPOCHS,
        "train.batch_size": 4,
        "train.lr": 1e-3,
        "telemetry.progress": False,
    }
    arguments = ["train", *(f"{key}={value}" for key, value in settings.items()), *extra, "--out", str(out)]
    return run_command(arguments, **kwargs)  # type: ignore[arg-type]


def check_books(out: Path) -> dict[str, Any]:
    """Senders and receivers agree packet by packet, and the summary is their sum."""
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    rows = read(out / "run.h5", "traffic")
    key = ["link", "client", "step", "wire", "label", "tokens", "n_I", "n_P", "n_S"]
    sent, received = (np.sort(rows[rows["side"] == side][key], order=key[:4]) for side in (0, 1))
    assert len(sent) and np.array_equal(sent, received)
    sent = rows[rows["side"] == 0]
    for name, link in summary["links"].items():
        own = sent[sent["link"] == LINKS.index(name)]
        assert link["wire_bytes"] == own["wire"].sum()
        assert link["raw_padded_bytes"] == own["raw_padded"].sum() > link["raw_real_bytes"] == own["raw_real"].sum()
        assert link["frames"] == {kind: own[f"n_{kind}"].sum() for kind in "IPS"}
        assert sum(link["frames"].values()) == own["tokens"].sum()
    train = read(out / "run.h5", "train")
    for step in np.unique(train["step"]):
        known = train[(train["step"] == step) & ~np.isnan(train["loss"])]
        clients, (together,) = known[known["client"] >= 0], known[known["client"] == -1]
        assert np.average(clients["loss"], weights=clients["target_tokens"]) == pytest.approx(
            together["loss"], rel=1e-6
        )
        own = train[(train["step"] == step) & np.isnan(train["loss"])]
        assert sorted(own["client"]) == sorted(clients["client"]), "a row at each end"
    assert summary["label_bytes"] == sent["label"].sum() > 0
    assert summary["adapter_bytes"] == read(out / "run.h5", "rounds")["bytes"].sum() + 4 * EPOCHS * body_elements(out)
    return summary


def body_elements(out: Path) -> int:
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    return sum(tensor.numel() for name, tensor in saved.items() if ".2." in name or ".3." in name)


EXPECTED_ROW_BYTES = {"none": 32 * 4, "fp16": 32 * 2, "int8": 32 + 2}


@pytest.mark.parametrize("codec", ["none", "fp16", "int8", "splitcom", "splitcom_int8", "frozen"])
def test_every_codec_trains_and_keeps_honest_books(codec: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    outcome = train(model_folders["llama"], tmp_path / "run", f"codec={codec}")
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run")
    up, down = (summary["links"][link] for link in ("up_activation", "down_gradient"))
    assert summary["ppl"] < summary["untuned_ppl"]
    packets = sum(-(-size // 4) for size in (17, 17, 16)) * EPOCHS
    positions = up["raw_real_bytes"] // 64
    if codec in EXPECTED_ROW_BYTES:
        row = EXPECTED_ROW_BYTES[codec]
        assert up["frames"] == {"I": positions, "P": 0, "S": 0}
        assert (
            up["wire_bytes"] == packets * HEADER.size + positions * row + 6 * SAMPLES * EPOCHS + summary["label_bytes"]
        )
        assert down["wire_bytes"] == packets * HEADER.size + positions * row
    if codec == "frozen":
        assert up["frames"]["I"] == positions // EPOCHS, "every sample crosses in the first epoch only"
        assert down["wire_bytes"] == packets * HEADER.size, "nothing comes down but the answer's header"
        assert len(read(tmp_path / "run" / "run.h5", "rounds")) == 0, "what does not train is not averaged"
        saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
        head = {name: tensor for name, tensor in saved.items() if ".0." in name or ".1." in name}
        assert head and all(not tensor.any() for name, tensor in head.items() if "lora_B" in name)
    if codec.startswith("splitcom"):
        assert up["frames"]["I"] >= positions // EPOCHS
        similarity = read(tmp_path / "run" / "run.h5", "similarity")
        assert len(similarity) == SAMPLES * (EPOCHS - 1), "every visit but the first has a reference"
        assert np.array_equal(similarity["sent"] == 1, ~(similarity["cosine"] > 0.98))
        assert up["frames"]["S"] == similarity[similarity["sent"] == 0]["tokens"].sum() > 0


def test_exported_adapter_has_the_reported_perplexity(model_folders: dict[str, Path], tmp_path: Path) -> None:
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=splitcom_int8")
    assert outcome.code == 0, outcome.stderr
    config = load_config([tmp_path / "run" / "config.yaml"])
    base = transformers.AutoModelForCausalLM.from_pretrained(model_folders["gpt2"])
    tuned = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").base_model.model
    samples = validation_samples(config, find_model(config.model.name).tokenizer())
    found = perplexity(tuned, samples, config.eval.batch_size).ppl
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found == pytest.approx(summary["ppl"], rel=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [-1, *range(EPOCHS)]
    assert lines[-1]["ppl"] == summary["ppl"] and lines[0]["ppl"] == summary["untuned_ppl"]


@pytest.mark.parametrize(("theta", "skips"), [(1.0, False), (-1.0, True)])
def test_thresholds_of_the_controller_reach_the_encoders_and_the_log(
    theta: float, skips: bool, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    values = [f"control.activation.{state}={theta}" for state in ("low", "high")]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=splitcom", "control.name=bang_bang", *values)
    assert outcome.code == 0, outcome.stderr
    frames = json.loads((tmp_path / "run" / "summary.json").read_text())["links"]["up_activation"]["frames"]
    assert frames["S"] == (frames["I"] * (EPOCHS - 1) if skips else 0)
    rows = read(tmp_path / "run" / "run.h5", "threshold")
    assert rows["epoch"].tolist() == [-1, *range(EPOCHS)] and set(rows["theta"]) == {theta}
    assert set(rows["controller"]) == {b"bang_bang"} and all(b"above the best" in text for text in rows["reason"])


def test_bfloat16_model_sends_bfloat16(model_folders: dict[str, Path], tmp_path: Path) -> None:
    outcome = train(model_folders["qwen2"], tmp_path / "run", "model.dtype=bfloat16")
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run")
    down = summary["links"]["down_gradient"]
    assert down["raw_real_bytes"] < down["wire_bytes"] < 1.1 * down["raw_real_bytes"] + 50 * HEADER.size
    assert summary["ppl"] < summary["untuned_ppl"]


def test_runs_are_reproducible_bit_for_bit(model_folders: dict[str, Path], tmp_path: Path) -> None:
    saved = []
    for name in ("one", "two"):
        outcome = train(model_folders["gpt2"], tmp_path / name, "codec=splitcom")
        assert outcome.code == 0, outcome.stderr
        saved.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def lose_references() -> None:
    """Make the server forget one client's references in the middle of a run."""
    original = ServerRole.step

    def forgetful(self: ServerRole, step: int) -> None:
        if step == 8:
            self.clients[1].incoming["up_activation"].decoder.store.clear()
        original(self, step)

    ServerRole.step = forgetful  # type: ignore[method-assign]


@pytest.mark.parametrize("codec", ["splitcom", "frozen"])
def test_a_store_that_differs_is_resynced_and_logged(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = train(model_folders["llama"], tmp_path / "run", f"codec={codec}", before=lose_references)
    assert outcome.code == 0, outcome.stderr
    events = read(tmp_path / "run" / "run.h5", "events")
    assert [event["step"] for event in events if event["kind"] == b"resync"] == [8, 8], "seen once at each end"
    check_books(tmp_path / "run")
