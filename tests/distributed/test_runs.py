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

from splitcom_dist.codec.header import HEADER
from splitcom_dist.comm.compressed_mean import CHECKSUM, packet_bytes
from splitcom_dist.config.files import load_config
from splitcom_dist.links import LINKS, STANDARD, U_SHAPE
from splitcom_dist.metrics.perplexity import perplexity
from splitcom_dist.models.sources import find_model
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.logical_client import LogicalClient
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


def check_packets(out: Path) -> dict[str, Any]:
    """Senders and receivers agree packet by packet, and the summary is their sum."""
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    rows = read(out / "run.h5", "traffic")
    key = ["link", "client", "step", "wire", "label", "tokens", "n_I", "n_P", "n_S", "n_C"]
    sent, received = (np.sort(rows[rows["side"] == side][key], order=key[:4]) for side in (0, 1))
    assert len(sent) and np.array_equal(sent, received)
    sent = rows[rows["side"] == 0]
    for name, link in summary["links"].items():
        own = sent[sent["link"] == LINKS.index(name)]
        assert link["wire_bytes"] == own["wire"].sum()
        assert link["raw_padded_bytes"] == own["raw_padded"].sum() > link["raw_real_bytes"] == own["raw_real"].sum()
        assert link["frames"] == {kind: own[f"n_{kind}"].sum() for kind in "IPSC"}
        assert sum(link["frames"].values()) == own["tokens"].sum()
    assert summary["label_bytes"] == sent["label"].sum()
    return summary


def check_books(out: Path, tail_layers: int = 0, int8: bool = False) -> dict[str, Any]:
    """Of packets, of what each end knows of a step, and of adapters."""
    summary = check_packets(out)
    train = read(out / "run.h5", "train")
    for step in np.unique(train["step"]):
        known = train[(train["step"] == step) & ~np.isnan(train["loss"])]
        clients = known[known["client"] >= 0]
        other_end = train[(train["step"] == step) & np.isnan(train["loss"])]
        if tail_layers:  # the server knows no loss, of a client or of all
            assert sorted(other_end["client"]) == [-1, *sorted(clients["client"])]
        else:
            (together,) = known[known["client"] == -1]
            mean = np.average(clients["loss"], weights=clients["target_tokens"])
            assert mean == pytest.approx(together["loss"], rel=1e-6)
            assert sorted(other_end["client"]) == sorted(clients["client"]), "a row at each end"
    assert (summary["label_bytes"] == 0) is (tail_layers > 0)
    averaged = sum(read(out / "run.h5", table)["bytes"].sum() for table in ("rounds", "gradients"))
    elements = body_elements(out, tail_layers)
    reported = CHECKSUM + packet_bytes(elements) if int8 else 4 * elements
    assert summary["adapter_bytes"] == averaged + EPOCHS * reported
    assert summary["control_bytes"] > 0
    return summary


def body_elements(out: Path, tail_layers: int) -> int:
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    blocks = [f".{block}." for block in range(2, 4 - tail_layers)]
    return sum(tensor.numel() for name, tensor in saved.items() if any(block in name for block in blocks))


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
        assert up["frames"] == {"I": positions, "P": 0, "S": 0, "C": 0}
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


@pytest.mark.parametrize("codec", ["none", "int8", "splitcom_all", "splitcom_all_int8", "frozen"])
def test_the_u_shape_trains_with_every_codec_on_four_links(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = train(model_folders["llama_tied"], tmp_path / "run", f"codec={codec}", "shape=u_shape")
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run", tail_layers=1)
    links = summary["links"]
    assert set(links) == set(LINKS) and summary["ppl"] < summary["untuned_ppl"]
    positions = {link: counts["raw_real_bytes"] // 64 for link, counts in links.items()}
    assert len(set(positions.values())) == 1, "the same positions on every link"
    packets = sum(-(-size // 4) for size in (17, 17, 16)) * EPOCHS
    if codec in EXPECTED_ROW_BYTES:
        for link, counts in links.items():
            manifest = 6 * SAMPLES * EPOCHS if link == "up_activation" else 0
            expected = packets * HEADER.size + positions[link] * EXPECTED_ROW_BYTES[codec] + manifest
            assert counts["wire_bytes"] == expected, link
    if codec == "frozen":
        assert links["up_activation"]["frames"]["I"] == positions["up_activation"] // EPOCHS
        assert links["down_gradient"]["wire_bytes"] == 0, "not even a header: nothing waits for one"
        saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
        trained = {
            block
            for name, tensor in saved.items()
            for block in "0123"
            if f".{block}." in name and tensor.any() and "lora_B" in name
        }
        assert trained == {"2", "3"}, "body and tail train, the head does not"
    if codec.startswith("splitcom"):
        similarity = read(tmp_path / "run" / "run.h5", "similarity")
        for code, link in enumerate(LINKS):
            rows = similarity[similarity["link"] == code]
            assert len(rows) == SAMPLES * (EPOCHS - 1), link
            assert np.array_equal(rows["sent"] == 1, ~(rows["cosine"] > (0.98 if "act" in link else 0.9)))
            assert links[link]["frames"]["S"] == rows[rows["sent"] == 0]["tokens"].sum()
        assert links["up_activation"]["frames"]["S"] > 0


@pytest.mark.parametrize("theta", [-1.0, 1.0])
def test_gradients_are_skipped_by_their_own_threshold(
    theta: float, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """At -1 the client steps on the first epoch's gradients for ever, at 1 on fresh ones: bytes and adapters differ."""
    overrides = [f"codec.down_gradient.theta={theta}", "codec.up_activation.gate=always"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=splitcom_all", *overrides)
    assert outcome.code == 0, outcome.stderr
    frames = check_books(tmp_path / "run")["links"]["down_gradient"]["frames"]
    assert frames["S"] == (frames["I"] * (EPOCHS - 1) if theta < 0 else 0)


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


@pytest.mark.parametrize("control", ["ddpg", "byte_budget"])
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_controllers_by_rounds_decide_every_links_threshold(
    shape: str, control: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = [f"shape={shape}", "codec=splitcom_all_int8", f"control={control}", "control.byte_budget.megabytes=0.6"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *overrides)
    assert outcome.code == 0, outcome.stderr
    check_books(tmp_path / "run", tail_layers=int(shape == "u_shape"))
    rows = read(tmp_path / "run" / "run.h5", "threshold")
    links = [LINKS.index(link) for link in (STANDARD if shape == "standard" else U_SHAPE)]
    rounds = [step for step in range(15) if (step + 1) % 3 == 0 or (step + 1) % 5 == 0]
    assert rows["link"].tolist() == links * (1 + len(rounds))
    assert rows["step"].tolist() == [step for step in (-1, *rounds) for _ in links]
    similarity = read(tmp_path / "run" / "run.h5", "similarity")
    for link in links:
        thetas = dict(zip(*(rows[rows["link"] == link][key].tolist() for key in ("step", "theta")), strict=True))
        for row in similarity[similarity["link"] == link]:
            theta = thetas[max(step for step in thetas if step < row["step"])]
            assert (row["sent"] == 1) is not (row["cosine"] > theta), "the threshold decided last was the one in force"
    states = [json.loads(text) for text in rows["state"]]
    assert all({"ddpg": "reward", "byte_budget": "spent_MB"}[control] in state for state in states)
    saved = tmp_path / "run" / "checkpoints" / "ddpg.safetensors"
    assert saved.is_file() is (control == "ddpg")
    if control == "ddpg" and shape == "standard":
        overrides.append(f"control.ddpg.load={saved}")
        outcome = train(model_folders["gpt2"], tmp_path / "again", *overrides)
        assert outcome.code == 0, outcome.stderr
        first = read(tmp_path / "again" / "run.h5", "threshold")["reason"][0]
        learnt = sum(step >= 5 for step in rounds)  # transitions of the epochs after the first
        assert first.decode().endswith(f"after {learnt} transitions"), "another run goes on with the replay"


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


def lose_gradient_references() -> None:
    """Make a client rank forget what it had of a gradient link, on which it is the receiver."""
    original = ClientRole.train

    def forgetful(self: ClientRole, client: LogicalClient, step: int) -> None:
        if step == 8 and client.id == 1:
            client.incoming["down_gradient"].decoder.store.clear()
        original(self, client, step)

    ClientRole.train = forgetful  # type: ignore[method-assign]


@pytest.mark.parametrize("tail_layers", [0, 1])
def test_a_gradient_store_that_differs_begins_afresh_without_another_round_trip(
    tail_layers: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = ["codec=splitcom_all", "codec.down_gradient.theta=-1", f"model.tail_layers={tail_layers}"]
    outcome = train(model_folders["llama"], tmp_path / "run", *overrides, before=lose_gradient_references)
    assert outcome.code == 0, outcome.stderr
    events = read(tmp_path / "run" / "run.h5", "events")
    resyncs = [event for event in events if event["kind"] == b"resync"]
    assert [event["step"] for event in resyncs] == [8, 8], "seen once at each end"
    assert all(b"down_gradient of client 1" in event["text"] for event in resyncs)
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    sent = rows[(rows["side"] == 0) & (rows["link"] == 1) & (rows["client"] == 1)]
    assert sent[sent["step"] == 8]["n_S"] == 0, "the batch was sent whole again"
    check_books(tmp_path / "run", tail_layers)


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
