"""What a server pays for each logical client more: CPU time of a step with 1 to 64 of them.

    python benchmarks/added_clients.py [--counts 1 2 4 8 16 32 64] [--rounds 5] [--codec splitcom] [key=value ...]

The embedded model, one client rank that all of them share and one server; each gives 2 texts of 64 tokens to every
step. CPU time is that of the server's process over all its threads, so that it does not matter what else computes. A
round runs every count once; the line through the medians weighs relative errors. `off the line` is how far a step is
from it: within 10 % is the reach. `peak` is the server's resident memory. Writes benchmarks/results/added_clients.md;
ten minutes on two idle cores.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from full_batches import SEED, full_texts
from machine import machine
from step_marks import marked_run

RESULTS = Path(__file__).parent / "results" / "added_clients.md"
COUNTS = (1, 2, 4, 8, 16, 32, 64)
BATCH, TOKENS, WARM_UP, STEPS, EPOCHS = 2, 64, 3, 9, 3  # steps of all epochs; each text is visited in every epoch
SERVER = 1  # rank
REACH = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", default="splitcom")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    costs: dict[int, list[float]] = {count: [] for count in options.counts}
    peaks: dict[int, list[int]] = {count: [] for count in options.counts}
    for number in range(options.rounds):
        for count in options.counts:
            cost, peak = server_cost(count, [f"codec={options.codec}", *options.settings])
            costs[count].append(cost)
            peaks[count].append(peak)
            print(f"round {number}, {count} clients: {1e3 * cost:.1f} ms", file=sys.stderr, flush=True)
    text = report({count: median(found) for count, found in costs.items()}, peaks, options.codec, options.rounds)
    print(text)
    RESULTS.write_text(text)


def server_cost(count: int, settings: list[str]) -> tuple[float, int]:
    """CPU seconds of a step, and the largest resident set."""
    with tempfile.TemporaryDirectory() as scratch:
        texts = full_texts(Path(scratch) / "texts", count * BATCH * STEPS // EPOCHS, TOKENS)
        layout = ["roles.client_ranks=1", f"fed.clients={count}", "runtime.threads=1"]
        training = [f"train.batch_size={BATCH}", f"train.epochs={EPOCHS}", f"train.seed={SEED}", f"eval.every={EPOCHS}"]
        _, marks = marked_run([*texts, *layout, *training, *settings], Path(scratch))
    steps = marks[SERVER][WARM_UP:-1]  # the last mark is behind the evaluation
    return (steps[-1].cpu - steps[0].cpu) / (len(steps) - 1), marks[SERVER][-1].peak


def report(costs: dict[int, float], peaks: dict[int, list[int]], codec: str, rounds: int) -> str:
    fixed, each = line(costs)
    worst = max(abs(cost / (fixed + each * count) - 1) for count, cost in costs.items())
    lines = [
        "# What a logical client more costs the server",
        "",
        f"Embedded model, codec {codec}, one client rank, one server, one thread a rank; {BATCH} x {TOKENS} tokens a "
        f"client and step. CPU time of the server a step, {STEPS - WARM_UP - 1} steps a run, medians of {rounds} "
        f"rounds. Seed {SEED}. {machine()}",
        "",
        "| clients | ms a step | ms a client | ms of each added since the row above | off the line | peak |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    before: tuple[int, float] | None = None
    for count, cost in costs.items():
        added = f"{1e3 * (cost - before[1]) / (count - before[0]):.2f}" if before else "-"
        off = f"{100 * (cost / (fixed + each * count) - 1):+.1f} %"
        cells = f"{1e3 * cost:.1f} | {1e3 * cost / count:.2f} | {added} | {off} | {median(peaks[count]) / 1e6:.0f} MB"
        lines.append(f"| {count} | {cells} |")
        before = count, cost
    lines += [
        "",
        f"The line: {1e3 * fixed:.1f} ms and {1e3 * each:.2f} ms a client; at most {100 * worst:.1f} % off it "
        f"(reach: {100 * REACH:.0f} %).",
    ]
    return "\n".join([*lines, ""])


def line(costs: dict[int, float]) -> tuple[float, float]:
    """The fixed and the added cost whose line is nearest to all costs, in relative errors."""
    counts, found = np.array(list(costs)), np.array(list(costs.values()))
    (fixed, each), *_ = np.linalg.lstsq(np.stack([1 / found, counts / found], axis=1), np.ones(len(found)), rcond=None)
    return float(fixed), float(each)


if __name__ == "__main__":
    main()
