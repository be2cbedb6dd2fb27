"""The worked examples of docs/extending.md, each in a real run of several processes."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch
import transformers
from conftest import Outcome, byte_tokenizer, run_command

from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SMALL = {
    "model.cut_layer": 2,
    "lora.rank": 4,
    "data.max_length": 120,
    "data.train_samples": 24,
    "data.validation_samples": 8,
    "roles.client_ranks": 2,
    "fed.clients": 2,
    "fed.every": 2,
    "train.epochs": 2,
    "train.batch_size": 4,
    "telemetry.progress": False,
}


def train(model: Path, out: Path, *extra: str) -> Outcome:
    arguments = [f"{key}={value}" for key, value in SMALL.items()]
    return run_command(["train", *arguments, f"model.name={model}", *extra, "--out", str(out)])


def test_a_codec_of_ones_own_sends_what_it_promises(model_folders: dict[str, Path], tmp_path: Path) -> None:
    extension = f"extensions=[{EXAMPLES / 'top_k.py'}]"
    link = "codec.up_activation"
    outcome = train(
        model_folders["gpt2"], tmp_path / "run", extension, f"{link}.quantizer=top_k", f"{link}.options.share=0.25"
    )
    assert outcome.code == 0, outcome.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    with h5py.File(tmp_path / "run" / "run.h5") as run:
        traffic = run["traffic"][:]
    up = traffic[(traffic["link"] == 0) & (traffic["side"] == 0)]
    payload = up["tokens"].sum() * 8 * 4  # a quarter of 32 elements, 4 bytes each
    overhead = summary["links"]["up_activation"]["wire_bytes"] - payload - summary["label_bytes"]
    assert 0 < overhead < 400 * len(up), "headers and sample ids"
    assert summary["links"]["up_activation"]["raw_real_bytes"] == up["tokens"].sum() * 32 * 2


def test_the_codec_works_behind_a_gate_and_a_finished_run_finds_it_again(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    values = ["codec=splitcom", "codec.up_activation.quantizer=top_k", "codec.up_activation.theta=-1"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "extensions=[top_k.py]", *values)
    assert outcome.code == 0, outcome.stderr
    frames = json.loads((tmp_path / "run" / "summary.json").read_text())["links"]["up_activation"]["frames"]
    assert frames["I"] == frames["S"] > 0, "all of the first epoch, nothing of the second"
    monkeypatch.chdir(tmp_path)
    again = train(model_folders["gpt2"], tmp_path / "run", str(tmp_path / "run" / "config.yaml"), "resume=auto")
    assert again.code == 0, again.stderr


def test_a_controller_of_ones_own_moves_the_thresholds(model_folders: dict[str, Path], tmp_path: Path) -> None:
    values = [f"extensions=[{EXAMPLES / 'ramp.py'}]", "codec=splitcom", "control.name=ramp", "control.options.power=2"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *values)
    assert outcome.code == 0, outcome.stderr
    with h5py.File(tmp_path / "run" / "run.h5") as run:
        thetas = run["threshold"]["theta"][:]
        reasons = run["threshold"]["reason"][:]
    assert len(thetas) > 3, "it decides after rounds too"
    assert thetas[0] == pytest.approx(0.98), "the lower bound of activation links"
    assert thetas[-1] == pytest.approx(0.998), "the upper one"
    assert (thetas[1:] >= thetas[:-1]).all()
    assert b"100% of the run is done" in reasons[-1]


def test_a_family_of_ones_own_computes_in_parts_what_it_computes_whole_and_trains(tmp_path: Path) -> None:
    folder = tmp_path / "neo"
    torch.manual_seed(0)
    config = transformers.GPTNeoConfig(
        hidden_size=32,
        num_layers=4,
        attention_types=[[["global", "local"], 2]],
        num_heads=4,
        vocab_size=800,
        max_position_embeddings=128,
        window_size=8,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPTNeoForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    script = [sys.executable, str(EXAMPLES / "check_family.py"), str(EXAMPLES / "gpt_neo.py"), str(folder), "3"]
    checked = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert checked.stdout == "gpt_neo: 3 + 1 blocks compute what all do\n", checked.stderr
    outcome = train(folder, tmp_path / "run", f"extensions=[{EXAMPLES / 'gpt_neo.py'}]", "shape=u_shape")
    assert outcome.code == 0, outcome.stderr
    without = train(folder, tmp_path / "without")
    assert without.code == 2
    assert "model type 'gpt_neo' is not supported" in without.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def f(:", "SyntaxError"),
        (
            "from splitcom_dist.codec.quantize import register_quantizer\nregister_quantizer('int8', None)",
            ".quantizer=int8 exists already; take another name",
        ),
        (
            "from splitcom_dist.models.families import register_family\nregister_family('gpt2', None)",
            "model type 'gpt2' is supported already",
        ),
    ],
)
def test_an_extension_that_cannot_be_used_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"^extensions: ") as caught:
        load_config([], [f"extensions=[{path}]"])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_nobody_would_read_are_refused() -> None:
    with pytest.raises(UserError, match=r"codec.up_activation.options: .* quantizer=none"):
        load_config([], ["codec.up_activation.options.share=0.1"])
    with pytest.raises(UserError, match=r"control.options: .* name=fixed"):
        load_config([], ["control.options.power=2"])
