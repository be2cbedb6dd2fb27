"""Time of a step whose micro-batches overlap over that of one in which they follow each other, over slow links too.

    python benchmarks/overlap.py [--model tiny] [--micro-batches 4] [--rounds 5] [--links 0 100 20]

One client and one server on this machine, a thread each; a link of 0 Mbit/s is the loopback. In every run each second
step overlaps, so both kinds have the same processes, model and load; a round's ratio is of the medians over its steps,
of seconds a position, and printed is the median over rounds with the least and the largest. Beside it stand the ratio
that `predicted` gives from what the steps without overlap took, and how long such a step is with one micro-batch, in a
run of its own. Also written to benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from splitcom_dist.telemetry.hdf5 import read

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 4  # steps that no figure counts
FORWARD = 1 / 3  # of what a client computes, by which its head's forward and backward are told apart


@dataclass(frozen=True)
class Round:
    """Of one run: seconds a position, and bytes a position on the links up and down."""

    apart: float
    together: float
    predicted: float
    whole: float  # with one micro-batch


def predicted(parts: int, client: float, server: float, up: float, down: float) -> float:
    """The ratio if clients, server and either direction of the link each work while the others do.

    Given are the seconds of a whole step at each of the four; parts are equal.
    """
    forward, backward, serve = FORWARD * client / parts, (1 - FORWARD) * client / parts, server / parts
    sent = served = back = 0.0
    answers = []
    for part in range(parts):
        sent = max(sent, (part + 1) * forward) + up / parts
        served = max(served, sent) + serve
        back = max(back, served) + down / parts
        answers.append(back)
    done = parts * forward
    for answer in answers:
        done = max(done, answer) + backward
    return done / (client + server + up + down)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=240, help="of training, 8 a step")
    parser.add_argument("--codec", default="none")
    parser.add_argument("--links", type=float, nargs="+", default=[0, 100, 20], help="Mbit/s each way, 0: loopback")
    options = parser.parse_args()
    rounds: dict[float, list[Round]] = {link: [] for link in options.links}
    for _ in range(options.rounds):
        for link in options.links:
            rounds[link].append(one_round(options, link))
    report(options, rounds)


def one_round(options: argparse.Namespace, link: float) -> Round:
    steps, traffic = train(options, link, options.micro_batches)
    of_client, of_server = (steps[np.isnan(steps["loss"]) == (end == "client")] for end in ("client", "server"))
    is_together = of_client["step"] % 2 == 1
    seconds = (of_client["seconds"] + of_client["wait"]) / of_client["tokens"]
    apart = of_client[~is_together]
    served = of_server[of_server["step"] % 2 == 0]
    tokens = float(np.median(apart["tokens"]))
    line = [median(traffic[traffic["link"] == code]["wire"]) * options.micro_batches for code in (0, 1)]
    up, down = (8 * size / (link * 1e6) if link else 0.0 for size in line)
    client, server = (float(np.median(rows["seconds"] / rows["tokens"])) * tokens for rows in (apart, served))
    whole, _ = train(options, link, 1)
    whole = whole[np.isnan(whole["loss"])]
    return Round(
        float(np.median(seconds[~is_together])),
        float(np.median(seconds[is_together])),
        predicted(options.micro_batches, client, server, up, down),
        float(np.median((whole["seconds"] + whole["wait"]) / whole["tokens"])),
    )


def train(options: argparse.Namespace, link: float, micro_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """What both ends logged of the client's steps behind the warm-up, and the packets sent in them."""
    settings = {
        "model.name": options.model,
        "codec": options.codec,
        "data.train_samples": options.samples,
        "data.validation_samples": 4,
        "roles.client_ranks": 1,
        "fed.clients": 1,
        "fed.every": 1000,
        "train.epochs": 1,
        "train.micro_batches": micro_batches,
        "runtime.threads": 1,
        "runtime.link.up_mbit": link,
        "runtime.link.down_mbit": link,
        "telemetry.progress": "false",
        "extensions": f"[{ROOT / 'benchmarks' / 'alternate.py'}]",
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [
            sys.executable,
            "-m",
            "splitcom_dist",
            "train",
            *(f"{key}={value}" for key, value in settings.items()),
        ]
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, cwd=ROOT)
        rows, traffic = read(out / "run.h5", "train"), read(out / "run.h5", "traffic")
    sent = traffic[(traffic["side"] == 0) & (traffic["step"] >= WARM_UP)]
    return rows[(rows["client"] == 0) & (rows["step"] >= WARM_UP)], sent


def report(options: argparse.Namespace, rounds: Mapping[float, Sequence[Round]]) -> None:
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{options.model}, codec {options.codec}, a batch of 8 in {options.micro_batches} parts, {cores} cores; "
        f"medians of {options.rounds} rounds (least to largest). Milliseconds a 1000 positions.",
        "",
        "| link, Mbit/s | one by one | overlapped | ratio | predicted | one micro-batch |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for link, each in rounds.items():
        ratios = sorted(one.together / one.apart for one in each)
        apart, together, whole = (
            1e6 * median(getattr(one, name) for one in each) for name in ("apart", "together", "whole")
        )
        lines.append(
            f"| {f'{link:g}' if link else 'loopback'} | {apart:.0f} | {together:.0f} | {median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {median(one.predicted for one in each):.2f} | {whole:.0f} |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "overlap.md").write_text(text)
    figures = {f"{link:g}": [asdict(one) for one in each] for link, each in rounds.items()}
    (results / "overlap.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
