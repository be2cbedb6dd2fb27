"""The same run starts from our own launcher and from torchrun, and a dry run starts nothing."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import run_command
from safetensors.torch import load_file

SETTINGS = {
    "data.train_samples": 24,
    "data.validation_samples": 6,
    "data.max_length": 100,
    "roles.client_ranks": 2,
    "fed.clients": 2,
    "train.epochs": 1,
    "train.batch_size": 4,
    "runtime.threads": 1,
}


def arguments(model: Path, out: Path, **changes: object) -> list[str]:
    values = SETTINGS | {"model.name": model} | changes
    return ["train", *(f"{key}={value}" for key, value in values.items()), "--out", str(out)]


def test_torchrun_gives_the_same_adapters_and_prints_the_table_once(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_folders["gpt2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    command += ["-m", "splitcom_dist", *arguments(model, tmp_path / "torchrun")]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("perplexity") == 3, "before and after training, and in the table"
    own = run_command(arguments(model, tmp_path / "own"))
    assert own.code == 0, own.stderr
    saved = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("torchrun", "own")]
    assert all(saved[0][name].equal(tensor) for name, tensor in saved[1].items())
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("torchrun", "own")]
    assert summaries[0]["links"] == summaries[1]["links"]


def test_a_mistake_under_torchrun_is_one_line_among_its_own(model_folders: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += ["-m", "splitcom_dist", *arguments(model_folders["gpt2"], tmp_path / "run")]
    launched = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert launched.returncode != 0
    own = [line for line in launched.stderr.splitlines() if line.startswith("error: ")]
    assert len(own) == 1 and "with 3 ranks, set roles.client_ranks=1" in own[0], launched.stderr


def test_dry_run_prints_roles_memory_and_bytes_and_makes_no_directory(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_command([*arguments(model_folders["llama"], tmp_path / "run"), "codec=int8", "--dry-run"])
    assert outcome.code == 0, outcome.stderr
    expected = ("cut_layer: 2", "quantizer: int8", "rank 2 (server)", "rank 3 (aggregator)", "2..3", "3 steps an epoch")
    for text in expected:
        assert text in outcome.stdout
    assert not (tmp_path / "run").exists()
