"""Who a server takes when: a step with roles.server_batching=sequential, merged and arrival, clients fast and slow.

    python benchmarks/batching.py [--rounds 5] [--windows 0 0.02] [key=value ...]

The embedded model, four client ranks with one logical client each and a server on this machine, 4 texts of 64 tokens a
client and step, codec none. `even`: all clients compute at the speed of their rank; `slow first`: at 0.25, 0.5, 0.75
and 1 of it, the slowest first in the order of numbers, in which a sequential server takes them. A round runs every kind
once; printed are medians over rounds of the median step, and of its ratio to the sequential one of the same round.
Writes benchmarks/results/batching.md; ten minutes on two idle cores.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from statistics import median

from full_batches import SEED, full_texts
from machine import machine
from step_marks import marked_run

RESULTS = Path(__file__).parent / "results" / "batching.md"
CLIENTS, BATCH, TOKENS, WARM_UP, STEPS = 4, 4, 64, 3, 15
SPEEDS = {"even": "1,1,1,1", "slow first": "0.25,0.5,0.75,1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", nargs="+", type=float, default=[0.0, 0.02], help="of arrival, seconds")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    kinds = {
        **{name: [f"roles.server_batching={name}"] for name in ("sequential", "merged")},
        **{
            f"arrival, {1e3 * window:g} ms": ["roles.server_batching=arrival", f"roles.batching_window={window}"]
            for window in options.windows
        },
    }
    steps: dict[tuple[str, str], list[float]] = {each: [] for each in itertools.product(SPEEDS, kinds)}
    for number in range(options.rounds):
        for speeds, kind in steps:
            steps[speeds, kind].append(step_seconds(SPEEDS[speeds], [*kinds[kind], *options.settings]))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    text = "\n".join([*head(options.rounds), *itertools.starmap(lambda *each: row(steps, *each), steps), ""])
    print(text)
    RESULTS.write_text(text)


def step_seconds(speeds: str, settings: list[str]) -> float:
    """The median of the steps behind the warm-up, by the server's clock."""
    with tempfile.TemporaryDirectory() as scratch:
        _, marks = marked_run(
            [
                *full_texts(Path(scratch) / "texts", CLIENTS * BATCH * STEPS, TOKENS),
                *("model.cut_layer=2", "codec=none", f"roles.client_ranks={CLIENTS}", f"fed.clients={CLIENTS}"),
                *(f"train.batch_size={BATCH}", "train.epochs=1", "fed.every=1000", f"train.seed={SEED}"),
                *("fed.speed.dist=list", f"fed.speed.values=[{speeds}]", *settings),
            ],
            Path(scratch),
        )
    clocks = [mark.clock for mark in marks[CLIENTS]][WARM_UP:-1]  # the server's rank comes behind the clients'
    return median(later - earlier for earlier, later in itertools.pairwise(clocks))


def head(rounds: int) -> list[str]:
    return [
        "# Who a server takes when",
        "",
        f"The embedded model, {CLIENTS} clients and a server, {BATCH} x {TOKENS} tokens a client and step, codec none; "
        f"clients at {' or '.join(SPEEDS.values())} of their rank's speed; medians of {rounds} interleaved rounds. "
        f"Seed {SEED}. {machine()}",
        "",
        "| clients | batching | step, ms | of sequential | lowest, highest |",
        "|---|---|---:|---:|---:|",
    ]


def row(steps: dict[tuple[str, str], list[float]], speeds: str, kind: str) -> str:
    own, sequential = steps[speeds, kind], steps[speeds, "sequential"]
    ratios = [one / other for one, other in zip(own, sequential, strict=True)]
    return (
        f"| {speeds} | {kind} | {1e3 * median(own):.0f} | {median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f} |"
    )


if __name__ == "__main__":
    main()
