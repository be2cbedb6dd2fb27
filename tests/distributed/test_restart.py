"""A rank is lost, torchrun starts all of them again, and the run comes out as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_command
from safetensors.torch import load_file
from test_launch import arguments

pytestmark = pytest.mark.long
RANKS = {"client": 1, "aggregator": 3}


def pid_of_rank(launcher: int, rank: int) -> int:
    """Of a process that the launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (pid,) = [pid for pid in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(pid)


@pytest.mark.parametrize("role", RANKS)
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(
    role: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = arguments(model_folders["gpt2"], tmp_path / "run", **{"train.epochs": 12, "codec": "video"})
    settings += ["checkpoint.every=3", "resume=auto", "telemetry.progress=false"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    command += ["--max-restarts", "2", "--monitor-interval", "0.2", "-m", "splitcom_dist", *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 150
        while not list(tmp_path.glob("run/checkpoints/*/manifest.json")):
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.kill(pid_of_rank(process.pid, RANKS[role]), signal.SIGKILL)
        _, told = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    logs = (tmp_path / "run" / "log" / "rank_00000.log").read_text()
    assert logs.count("shards of") == 2, "joined once more"
    whole = [text.replace(str(tmp_path / "run"), str(tmp_path / "whole")) for text in settings]
    assert run_command(whole).code == 0
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "whole"))
    assert all(one[name].equal(tensor) for name, tensor in other.items())
