"""Rounds that training takes to a target perplexity, by LoRA rank: the E(r) that `splitcom_dist/plan` fits.

    python benchmarks/rank_epochs.py --runs /tmp/ranks [--seeds 0 1 2]  # runs that are there are reused
    python benchmarks/rank_epochs.py --runs /tmp/ranks --report-only     # table of what is there

Trains the embedded model on the built-in corpus at several ranks with alpha = 2 x rank, so that the adapter's scale
is the same at all of them, and a constant learning rate, so that the number of epochs asked for changes nothing. The
target's place between two evaluations is interpolated in the loss. Writes benchmarks/results/rank_epochs.md and the
data file of the package, splitcom_dist/plan/rank_rounds.json.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

from pareto_runs import ROOT, call

from splitcom_dist.plan.rounds import DATA, fit, load
from splitcom_dist.telemetry.hdf5 import read

RESULTS = Path(__file__).parent / "results"
RANKS = [1, 2, 4, 8, 16, 32]
CLIENTS, LOCAL_STEPS, TARGET = 3, 4, 100.0
SETTINGS = [
    *("codec=none", "roles.client_ranks=1", f"fed.clients={CLIENTS}", f"fed.every={LOCAL_STEPS}"),
    *("data.train_samples=192", "data.validation_samples=60", "train.lr=3e-3", "train.schedule=constant"),
    *("runtime.threads=1", "telemetry.progress=false"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    points = []
    for seed in options.seeds:
        for rank in RANKS:
            folder = options.runs.resolve() / f"rank{rank}-seed{seed}"
            if not options.report_only and not (folder / "summary.json").is_file():
                train(rank, seed, options.epochs, folder)
            if (folder / "summary.json").is_file() and (rounds := rounds_to_target(folder)) is not None:
                points.append({"rank": rank, "seed": seed, "rounds": round(rounds, 3)})
    if not points:
        sys.exit("no run has come to the target yet")
    report(points)


def train(rank: int, seed: int, epochs: int, folder: Path) -> None:
    print(f"rank {rank}, seed {seed}", file=sys.stderr, flush=True)
    own = [f"lora.rank={rank}", f"lora.alpha={2 * rank}", f"train.seed={seed}", f"train.epochs={epochs}"]
    experiment = str(ROOT / "configs" / "experiment" / "demo.yaml")
    if failed := call(["train", experiment, *SETTINGS, *own, "--out", str(folder)]):
        sys.exit(f"{folder}: {failed}")


def rounds_to_target(folder: Path) -> float | None:
    """Rounds until the loss is that of the target; None if it never is."""
    rows = read(folder / "run.h5", "eval")
    course = [(float(row["step"] + 1) / LOCAL_STEPS, float(row["loss"])) for row in rows]
    goal = math.log(TARGET)
    for (before, high), (after, low) in pairwise(course):
        if low <= goal:
            return before + (after - before) * (high - goal) / (high - low)
    return None


def report(points: Sequence[dict[str, float]]) -> None:
    """The data file, and the table with what the fit makes of it."""
    lines = ",\n".join("    " + json.dumps(point) for point in points)
    DATA.write_text(
        f'{{\n  "model": "tiny",\n  "corpus": "synthetic",\n  "target_ppl": {TARGET},\n  "clients": {CLIENTS},\n'
        f'  "local_steps": {LOCAL_STEPS},\n  "points": [\n{lines}\n  ]\n}}\n',
        encoding="utf-8",
    )
    curve = fit(load())
    table = [
        "# Rounds to a target perplexity, by LoRA rank",
        "",
        f"The embedded model on the built-in corpus to perplexity {TARGET:.0f}, {CLIENTS} clients, {LOCAL_STEPS} steps "
        "a round, alpha = 2 x rank, AdamW at 3e-3. "
        f"Fit: E(r) = {curve.floor:.2f} + {curve.scale:.2f} r^-{curve.power:.2f}.",
        "",
        "| rank | rounds, each seed | mean | fit |",
        "|---:|---|---:|---:|",
    ]
    for rank in sorted({int(point["rank"]) for point in points}):
        own = [point["rounds"] for point in points if point["rank"] == rank]
        each = ", ".join(f"{value:.1f}" for value in own)
        table.append(f"| {rank} | {each} | {mean(own):.1f} | {curve(rank):.1f} |")
    text = "\n".join([*table, ""])
    (RESULTS / "rank_epochs.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
