"""How long a run takes from the start of its process to its first step, and what the seconds go to.

    python benchmarks/start_up.py [--rounds 5] [key=value ...]

The embedded model as `splitcom demo` runs it: 3 clients, a server and an aggregator, five processes forked from one
that imports. Phases are told apart by each rank's log and by when it begins its first step; a phase ends when the last
rank has come through it. The model before training is evaluated before the first step. Then importing alone, by
-X importtime: seconds that modules of each package take by themselves. Medians over rounds. Writes
benchmarks/results/start_up.md; two minutes on two idle cores.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import median

from machine import machine
from step_marks import ROOT, Mark, marked_run

RESULTS = Path(__file__).parent / "results" / "start_up.md"
REACH = 10  # seconds
SETTINGS = ["data.train_samples=72", "train.epochs=1"]
IMPORTING = """
import splitcom_dist.cli, splitcom_dist.launcher
from splitcom_dist.models.sources import warm_up
warm_up("tiny")
"""
SHOWN = 10  # packages
TIMED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
PHASES = {
    "imports, and ranks that have met": "of 5, started by",
    "weights, adapters, text and role": "shards of",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    rounds, imports = [], []
    for _ in range(options.rounds):
        rounds.append(one_round(options.settings))
        print({name: round(seconds, 2) for name, seconds in rounds[-1].items()}, file=sys.stderr, flush=True)
        imports.append(import_seconds())
    text = report(rounds, imports)
    print(text)
    RESULTS.write_text(text)


def one_round(settings: list[str]) -> dict[str, float]:
    """Seconds of each phase."""
    with tempfile.TemporaryDirectory() as scratch:
        started, marks = marked_run([*SETTINGS, *settings], Path(scratch))
        logs = (Path(scratch) / "run" / "log").glob("rank_*.log")
        ends = phase_ends([log.read_text() for log in logs])
    computing = {rank: noted for rank, noted in marks.items() if rank + 1 < len(marks)}  # not the aggregator
    ends |= {"untuned evaluation": latest(computing, 0), "first step": latest(computing, 1)}
    phases, before = {}, started
    for name, end in ends.items():
        phases[name], before = end - before, end
    return phases


def phase_ends(logs: list[str]) -> dict[str, float]:
    """When the last rank wrote the line that ends a phase."""
    ends = {}
    for name, words in PHASES.items():
        lines = [next(line for line in log.splitlines() if words in line) for log in logs]
        ends[name] = max(datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp() for line in lines)
    return ends


def latest(marks: Mapping[int, list[Mark]], step: int) -> float:
    return max(noted[step].clock for noted in marks.values())


def import_seconds() -> dict[str, float]:
    """Of one process that imports what the ranks are forked with, by package."""
    command = [sys.executable, "-X", "importtime", "-c", IMPORTING]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stderr
    seconds: dict[str, float] = defaultdict(float)
    for line in told.splitlines():
        if found := TIMED.match(line):
            seconds[found[2].split(".")[0]] += int(found[1]) / 1e6
    return seconds


def report(rounds: list[dict[str, float]], imports: list[dict[str, float]]) -> str:
    lines = [
        "# From the start of the process to the first step",
        "",
        f"The embedded model, 3 clients, server and aggregator; medians of {len(rounds)} rounds. {machine()}",
        "",
        "| phase | seconds |",
        "|---|---:|",
        *(f"| {name} | {median(each[name] for each in rounds):.2f} |" for name in rounds[0]),
        f"| to the end of the first step | {median(sum(each.values()) for each in rounds):.2f} |",
        f"| reach | {REACH} |",
        "",
        "| package | seconds of importing | share |",
        "|---|---:|---:|",
    ]
    whole = median(sum(each.values()) for each in imports)
    packages = {name: median(each.get(name, 0.0) for each in imports) for name in set().union(*imports)}
    shown = sorted(packages.items(), key=lambda item: -item[1])[:SHOWN]
    shown.append(("others", whole - sum(seconds for _, seconds in shown)))
    lines += [f"| {name} | {seconds:.2f} | {100 * seconds / whole:.0f} % |" for name, seconds in shown]
    return "\n".join([*lines, f"| all | {whole:.2f} | 100 % |", ""])


if __name__ == "__main__":
    main()
