"""Seconds to a target perplexity over slow links: SplitLoRA, SplitCom and codec `video` at 5, 20 and 100 Mbit/s up.

    python benchmarks/wan.py --runs /tmp/wan [--data ../shared/data]  # runs that are there are reused
    python benchmarks/wan.py --runs /tmp/wan --report-only            # table and figure of what is there

Trains configs/experiment/pareto_small.yaml (the embedded model, two clients that share one link) on E2E as
pareto_data.py draws it, or without --data on the built-in corpus. The link is runtime.link: down five times as fast as
up, 40 ms each way; packets and averaging pass through it. Time is that of the client rank: its steps and averagings, to
the first evaluation at the target, without the evaluations. The target lies 6 % above where SplitLoRA ends: at 2 %,
which was tried first, neither SplitCom nor video arrives within ten epochs. Runs one after the other, so that they do
not slow each other: 5 minutes a seed on two idle cores. Writes benchmarks/results/wan.{md,json,png}.
"""

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from pareto_data import CLIENTS, TASKS, prepare
from pareto_runs import CONFIG, call
from wan_figure import draw

from splitcom_dist.telemetry.hdf5 import read as read_table
from splitcom_dist.telemetry.summary import read as read_summary

RESULTS = Path(__file__).parent / "results"
DOWN, DELAY_MS = 5, 40  # times the rate up; one way
METHODS = {"SplitLoRA, FP16": "fp16", "SplitCom, INT8": "splitcom_int8", "video": "video"}
BASELINE = "SplitLoRA, FP16"
RATES = [5, 20, 100]  # Mbit/s up
GOAL = 1.06  # of the baseline's last perplexity


@dataclass(frozen=True)
class Course:
    """One run: perplexity after every epoch, the seconds until then, and of those the ones spent waiting."""

    method: str
    up_mbit: int
    seed: int
    ppl: list[float]
    seconds: list[float]
    waited: list[float]
    wire_bytes: int

    def reached(self, target: float) -> int | None:
        """The first epoch at the target."""
        return next((epoch for epoch, ppl in enumerate(self.ppl) if ppl <= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the corpus e2e; default: the built-in corpus")
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="Mbit/s up")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, default=64, help="training rows of the built-in corpus")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table and the figure")
    options = parser.parse_args()
    options.runs = options.runs.resolve()
    courses = []
    for seed, rate, method in itertools.product(options.seeds, options.rates, METHODS):
        corpus = "e2e" if options.data else f"synthetic{options.rows}"
        folder = options.runs / f"{METHODS[method]}-{rate}mbit-{corpus}-{options.epochs}-seed{seed}"
        if not options.report_only and not (folder / "summary.json").is_file():
            train(method, rate, seed, folder, options)
        if (folder / "summary.json").is_file():
            courses.append(course(method, rate, seed, folder))
    if not courses:
        sys.exit("no run is there yet")
    report(courses, options.results)


def train(method: str, rate: int, seed: int, folder: Path, options: argparse.Namespace) -> None:
    settings = [f"codec={METHODS[method]}", f"train.seed={seed}", f"train.epochs={options.epochs}"]
    settings += [f"fed.clients={CLIENTS}", "fed.adapter_quantizer=int8"]  # codecs are compared, not adapters
    settings += [f"runtime.link.up_mbit={rate}", f"runtime.link.down_mbit={DOWN * rate}"]
    settings += [f"runtime.link.delay_ms={DELAY_MS}"]
    if options.data:
        settings += prepare(TASKS[0], seed, options.data, options.runs)
    else:
        settings += ["data=synthetic", f"data.train_samples={options.rows}", "data.validation_samples=50"]
    print(f"{method}, {rate} Mbit/s, seed {seed}", file=sys.stderr, flush=True)
    if failed := call(["train", str(CONFIG), *settings, "--out", str(folder)]):
        sys.exit(f"{folder}: {failed}")


def course(method: str, rate: int, seed: int, folder: Path) -> Course:
    """What the client rank's log says: it has one turn after the other, so their durations add up."""
    log = folder / "telemetry" / "rank_00000.h5"
    turns, rounds = read_table(log, "train"), read_table(log, "rounds")
    evaluations = [row for row in read_table(folder / "run.h5", "eval") if row["step"] >= 0]
    seconds, waited = [], []
    for row in evaluations:
        until, averaged = turns[turns["step"] <= row["step"]], rounds[rounds["step"] <= row["step"]]
        held = float(np.sum(until["wait"], dtype=float) + np.sum(averaged["seconds"], dtype=float))
        seconds.append(round(held + float(np.sum(until["seconds"], dtype=float)), 3))
        waited.append(round(held, 3))
    ppl = [round(float(row["ppl"]), 4) for row in evaluations]
    return Course(method, rate, seed, ppl, seconds, waited, read_summary(folder / "summary.json").wire_bytes)


def report(courses: Sequence[Course], folder: Path) -> None:
    """Table, one line of JSON a run, and the figure."""
    ends = {each.seed: each.ppl[-1] for each in courses if each.method == BASELINE}
    targets = {seed: GOAL * ppl for seed, ppl in ends.items()}
    rates = sorted({each.up_mbit for each in courses})
    times: dict[tuple[str, int], float | None] = {}
    lines = [
        "# Seconds to a target perplexity over a slow link",
        "",
        f"The embedded model, {CLIENTS} clients on one rank and link, down {DOWN} times as fast as up, {DELAY_MS} ms "
        f"each way; {platform.machine()}, {len(os.sched_getaffinity(0))} cores. Target: {100 * (GOAL - 1):.0f} % above "
        f"where SplitLoRA ends, {', '.join(f'{target:.2f} (seed {seed})' for seed, target in targets.items())}. In "
        "brackets the share of the time that the client waits: for the link, the server and averaging.",
        "",
        "| method | all bytes, MB | " + " | ".join(f"{rate} Mbit/s up, s" for rate in rates) + " |",
        "|---|---:|" + "---:|" * len(rates),
    ]
    for method in METHODS:
        own = [each for each in courses if each.method == method and each.seed in targets]
        if not own:
            continue
        cells = []
        for rate in rates:
            times[method, rate], share = reached([each for each in own if each.up_mbit == rate], targets)
            base, time = times.get((BASELINE, rate)), times[method, rate]
            factor = f", {base / time:.1f} x as fast" if base and time and method != BASELINE else ""
            cells.append(f"{time:.1f} ({share:.0%}{factor})" if time else "not reached")
        megabytes = mean(each.wire_bytes for each in own) / 1e6
        lines.append(f"| {method} | {megabytes:.2f} | {' | '.join(cells)} |")
    text = "\n".join([*lines, ""])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wan.md").write_text(text, encoding="utf-8")
    rows = ",\n".join(json.dumps(asdict(each)) for each in courses)
    (folder / "wan.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    link = f"Mbit/s up, {DOWN} times that down, {DELAY_MS} ms"
    draw({method: [times.get((method, rate)) for rate in rates] for method in METHODS}, rates, link, folder / "wan.png")
    print(text)


def reached(courses: Sequence[Course], targets: Mapping[int, float]) -> tuple[float | None, float]:
    """Mean seconds over seeds to the target, None if one of them never comes there, and the share spent waiting."""
    epochs = [each.reached(targets[each.seed]) for each in courses]
    found = [(each, epoch) for each, epoch in zip(courses, epochs, strict=True) if epoch is not None]
    if not found or len(found) < len(courses):
        return None, 0.0
    seconds = mean(each.seconds[epoch] for each, epoch in found)
    return seconds, mean(each.waited[epoch] for each, epoch in found) / seconds


if __name__ == "__main__":
    main()
