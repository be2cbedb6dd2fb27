"""Kill all ranks of a run at random moments and resume it: are adapters, bytes and evaluations those of a whole run?

    python benchmarks/kill_and_resume.py --moments 50

Each moment is drawn evenly over the time that a whole run takes, start and joining included; the launcher gets SIGKILL
and its ranks with it, up to three times a run, then the run is resumed to its end. Prints and writes
benchmarks/results/kill_and_resume.md. Exit code 1 if any run differs. About 7 minutes on two cores.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from splitcom_dist.cli import main as splitcom

RESULTS = Path(__file__).parent / "results" / "kill_and_resume.md"
KILLS = 3  # of one run at most
SETTINGS = {
    "data.train_samples": 48,
    "data.validation_samples": 12,
    "data.max_length": 100,
    "roles.client_ranks": 2,
    "fed.clients": 3,
    "fed.every": 3,
    "train.epochs": 3,
    "train.batch_size": 4,
    "checkpoint.every": 2,
    "telemetry.progress": "false",
    "runtime.threads": 1,
    "resume": "auto",
}
METHODS = {
    "splitcom": ["codec=splitcom"],
    "video": ["codec=video", "fed.adapter_quantizer=int8"],
    "U-shape, all INT8, DDPG": ["shape=u_shape", "codec=splitcom_all_int8", "control=ddpg"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="at which runs are killed, over all methods")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, failed = random.Random(options.seed), 0
    lines = ["| method | kills | before the first checkpoint | same as undisturbed |", "|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as scratch:
        for index, (name, overrides) in enumerate(METHODS.items()):
            folder = Path(scratch) / str(index)
            started = time.monotonic()
            train(overrides, folder / "whole")
            whole, expected = time.monotonic() - started, outcome(folder / "whole")
            left = options.moments * (index + 1) // len(METHODS) - options.moments * index // len(METHODS)
            seen: Counter[str] = Counter()
            while left:
                out = folder / f"run{left}"
                kills = min(KILLS, left)
                for _ in range(kills):
                    train(overrides, out, kill_after=rng.uniform(0, whole))
                    seen["early"] += not list(out.glob("checkpoints/*/manifest.json"))
                train(overrides, out)
                left -= kills
                seen["kills"] += kills
                seen["runs"] += 1
                seen["same"] += outcome(out) == expected
                print(f"{name}: {dict(seen)}", file=sys.stderr, flush=True)
            failed += seen["runs"] - seen["same"]
            lines.append(f"| {name} | {seen['kills']} | {seen['early']} | {seen['same']} of {seen['runs']} runs |")
    text = "\n".join([*head(options.seed), *lines, ""])
    print(text)
    RESULTS.write_text(text)
    sys.exit(min(failed, 1))


def train(overrides: list[str], out: Path, kill_after: float | None = None) -> None:
    """`splitcom train` in a process forked from this one, killed after so many seconds."""
    arguments = ["train", *(f"{key}={value}" for key, value in SETTINGS.items()), *overrides, "--out", str(out)]
    process = multiprocessing.get_context("fork").Process(target=quietly, args=(arguments,))
    process.start()
    process.join(kill_after)
    if kill_after is not None:
        process.kill()  # its ranks ask the kernel to go with it
        process.join()
        time.sleep(0.2)
    elif process.exitcode:
        sys.exit(f"{' '.join(arguments)}: exit code {process.exitcode}")


def quietly(arguments: list[str]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(splitcom(arguments))


def outcome(out: Path) -> dict[str, Any]:
    """Final adapters as text of their bytes, every count of bytes and frames, every evaluation."""
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    summary = json.loads((out / "summary.json").read_text())
    for name in ("seconds", "tokens_per_second", "ranks", "config"):
        del summary[name]
    tensors = {name: tensor.numpy().tobytes().hex() for name, tensor in adapter.items()}
    return {"adapter": tensors, "summary": summary, "metrics": (out / "metrics.jsonl").read_text()}


def head(seed: int) -> list[str]:
    return [
        "# Killed and resumed",
        "",
        f"Embedded model, {SETTINGS['data.train_samples']} texts, 3 clients on 2 ranks, server and aggregator, "
        f"checkpoints every {SETTINGS['checkpoint.every']} steps. SIGKILL to all ranks at moments drawn evenly over a "
        "run's time; then resumed. Same: final adapters bit for bit, every count of bytes and frames, every "
        f"evaluation. Seed {seed}, torch {version('torch')}, {platform.machine()}.",
        "",
    ]


if __name__ == "__main__":
    main()
