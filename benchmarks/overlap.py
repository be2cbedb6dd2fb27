"""Time of a step whose micro-batches overlap over that of one in which they follow each other, over slow links too.

    python benchmarks/overlap.py [--cases none none:100 none:20 video video:0:0.25] [--micro-batches 4] [--rounds 5]

A case is a codec, the Mbit/s of a link (0: the loopback) and the speed of the client's device: what it computes lasts
1/speed as long, and its cores idle meanwhile, as beside a GPU. One client and one server on this machine, a thread
each. In every run steps take the schedules in turn (roles.overlap=none, transfers, full), so all have the same
processes, model and load; a round's ratio is of the medians over its steps, of seconds a position, and printed is the
median over rounds with the least and the largest. Beside it stand what `predicted` gives for transfers from what the
steps without overlap took, and how long such a step is with one micro-batch, in a run of its own. Also written to
benchmarks/results/.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine

from splitcom_dist.telemetry.hdf5 import read

ROOT = Path(__file__).resolve().parent.parent
CASES = ("none", "none:100", "none:20", "video", "video:0:0.25")
WARM_UP = 6  # steps that no figure counts
SCHEDULES = ("none", "transfers", "full")
FORWARD = 1 / 3  # of what a client computes, by which its head's forward and backward are told apart


@dataclass(frozen=True)
class Case:
    codec: str
    mbit: float = 0.0  # of the link each way, 0: loopback
    speed: float = 1.0  # of the client's device

    @staticmethod
    def read(text: str) -> "Case":
        codec, *figures = text.split(":")
        return Case(codec, *map(float, figures))

    def __str__(self) -> str:
        return f"{self.codec}:{self.mbit:g}:{self.speed:g}"


@dataclass(frozen=True)
class Round:
    """Of one run: seconds a position, and bytes a position on the links up and down."""

    schedules: tuple[float, ...]  # in the order of SCHEDULES
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
    parser.add_argument("--cases", type=Case.read, nargs="+", default=[Case.read(case) for case in CASES])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=320, help="of training, 8 a step")
    options = parser.parse_args()
    rounds: dict[Case, list[Round]] = {case: [] for case in options.cases}
    for _ in range(options.rounds):
        for case in options.cases:
            rounds[case].append(one_round(options, case))
    report(options, rounds)


def one_round(options: argparse.Namespace, case: Case) -> Round:
    steps, traffic = train(options, case, options.micro_batches)
    of_client, of_server = (steps[np.isnan(steps["loss"]) == (end == "client")] for end in ("client", "server"))
    kind = of_client["step"] % len(SCHEDULES)
    seconds = (of_client["seconds"] + of_client["wait"]) / of_client["tokens"]
    apart = of_client[kind == 0]
    served = of_server[of_server["step"] % len(SCHEDULES) == 0]
    tokens = float(np.median(apart["tokens"]))
    line = [median(traffic[traffic["link"] == code]["wire"]) * options.micro_batches for code in (0, 1)]
    up, down = (8 * size / (case.mbit * 1e6) if case.mbit else 0.0 for size in line)
    client, server = (float(np.median(rows["seconds"] / rows["tokens"])) * tokens for rows in (apart, served))
    whole, _ = train(options, case, 1)
    whole = whole[np.isnan(whole["loss"])]
    return Round(
        tuple(float(np.median(seconds[kind == number])) for number in range(len(SCHEDULES))),
        predicted(options.micro_batches, client, server, up, down),
        float(np.median((whole["seconds"] + whole["wait"]) / whole["tokens"])),
    )


def train(options: argparse.Namespace, case: Case, micro_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """What both ends logged of the client's steps behind the warm-up, and the packets sent in them."""
    settings = {
        "model.name": options.model,
        "codec": case.codec,
        "data.train_samples": options.samples,
        "data.validation_samples": 4,
        "roles.client_ranks": 1,
        "fed.clients": 1,
        "fed.every": 1000,
        "fed.speed.dist": "list",
        "fed.speed.values": f"[{case.speed}]",
        "train.epochs": 1,
        "train.micro_batches": micro_batches,
        "runtime.threads": 1,
        "runtime.link.up_mbit": case.mbit,
        "runtime.link.down_mbit": case.mbit,
        "telemetry.progress": "false",
        "extensions": f"[{ROOT / 'benchmarks' / 'alternate.py'}]",
    }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        overrides = [f"{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "splitcom_dist", "train", *overrides, "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        rows, traffic = read(out / "run.h5", "train"), read(out / "run.h5", "traffic")
    sent = traffic[(traffic["side"] == 0) & (traffic["step"] >= WARM_UP)]
    return rows[(rows["client"] == 0) & (rows["step"] >= WARM_UP)], sent


def report(options: argparse.Namespace, rounds: Mapping[Case, Sequence[Round]]) -> None:
    lines = [
        "# Micro-batches that overlap",
        "",
        f"{options.model}, a batch of 8 in {options.micro_batches} parts, one client and its server, a thread each; "
        f"medians of {options.rounds} rounds. Milliseconds a 1000 positions, and the ratio to that of one part after "
        f"the other (least to largest). Seed 0. {machine()}",
        "",
        "| codec | link, Mbit/s | client's speed | one by one | transfers | full | predicted | one micro-batch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, each in rounds.items():
        apart, whole = (
            1e6 * median(these) for these in zip(*((one.schedules[0], one.whole) for one in each), strict=True)
        )
        lines.append(
            f"| {case.codec} | {f'{case.mbit:g}' if case.mbit else 'loopback'} | {case.speed:g} | {apart:.0f} "
            f"| {ratio(each, 1)} | {ratio(each, 2)} | {median(one.predicted for one in each):.2f} | {whole:.0f} |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "overlap.md").write_text(text)
    figures = {str(case): [asdict(one) for one in each] for case, each in rounds.items()}
    (results / "overlap.json").write_text(json.dumps(figures, indent=1) + "\n")


def ratio(rounds: Sequence[Round], schedule: int) -> str:
    """What a schedule takes, and its ratio to one part after the other."""
    taken = 1e6 * median(one.schedules[schedule] for one in rounds)
    ratios = sorted(one.schedules[schedule] / one.schedules[0] for one in rounds)
    return f"{taken:.0f}, {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
