"""How near a split run comes to its limit: tokens a second against one process that does the same arithmetic.

    python benchmarks/limit.py [--shapes tiny gpt2] [--clients 1 4] [--rounds 5] [--codec none] [--keep-memory]

The limit is one_process.py: the same model, LoRA, batches and optimizer in one process with peft, and no wire. Both
take 8 texts of 128 tokens a client and step, targets at every position, those of several clients one after the other
(roles.server_batching=sequential) or in one pass (merged); the one process computes with as many threads
as there are cores, the ranks share these. A round times the two one after the other; printed are medians over rounds,
and of the ratios the lowest and the highest too. Start-up, the first steps and the last one do not count. `work` is
the CPU time a token of clients and server, against that of the one process: what of a shortfall is work, not waiting
(threads that spin until others are done count in it; ranks let them spin less). With `--keep-memory` the one process,
too, keeps the memory that it frees, as ranks do and no plain process does.
Writes benchmarks/results/limit.md, or limit_kept.md. Five rounds take ten minutes for tiny on two idle cores, half an
hour for GPT-2 small's shape.
"""

import argparse
import itertools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from full_batches import SEED, SHAPES, full_texts, model_folder
from machine import machine
from one_process import Pace, one_process
from step_marks import marked_run

RESULTS = Path(__file__).parent / "results" / "limit.md"
BATCH, TOKENS, WARM_UP = 8, 128, 2
COUNTED = {"tiny": 24, "gpt2": 6}  # client batches at least; with several clients a step has several
BATCHING = ("sequential", "merged")
REACH = {1: 0.95, 4: 0.90}


@dataclass(frozen=True)
class Round:
    split: Pace
    limit: Pace

    @property
    def ratio(self) -> float:
        return self.split.tokens_per_second / self.limit.tokens_per_second

    @property
    def work(self) -> float:
        return self.split.cpu_per_token / self.limit.cpu_per_token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--clients", nargs="+", type=int, default=list(REACH))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", default="none")
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("more", nargs="*", metavar="key=value", help="settings of the split run")
    options = parser.parse_args()
    lines = [
        "# A split run against its limit",
        "",
        f"Tokens a second of clients, a server and an aggregator, codec {options.codec}, cut after 2 blocks, against "
        f"one process{', which keeps the memory that it frees,' if options.keep_memory else ''} that does the same "
        f"arithmetic with peft; {BATCH} x {TOKENS} tokens a client and step, medians of "
        f"{options.rounds} interleaved rounds. Seed {SEED}. {machine()}",
        "",
        "| model | clients | batching | threads | split run | one process | ratio | lowest, highest | reach | work |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape, clients, batching in itertools.product(options.shapes, options.clients, BATCHING):
        if clients == 1 and batching != BATCHING[0]:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            settings = settings_of(shape, clients, batching, Path(scratch))
            own = [f"codec={options.codec}", *options.more]
            folders = [Path(scratch) / str(number) for number in range(options.rounds)]
            rounds = [one_round(settings, own, clients, folder, options.keep_memory) for folder in folders]
        lines.append(row(shape, clients, batching, rounds, options.more))
        print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    (RESULTS.with_stem("limit_kept") if options.keep_memory else RESULTS).write_text(text)


def settings_of(shape: str, clients: int, batching: str, scratch: Path) -> list[str]:
    """What both compute."""
    steps = WARM_UP + max(3, -(-COUNTED[shape] // clients)) + 1
    return [
        *full_texts(scratch / "texts", clients * BATCH * steps, TOKENS),
        f"model.name={model_folder(shape, scratch)}",
        "model.cut_layer=2",
        f"roles.client_ranks={clients}",
        f"roles.server_batching={batching}",
        f"fed.clients={clients}",
        f"fed.every={WARM_UP + 2}",  # so that an averaging counts
        f"train.batch_size={BATCH}",
        f"train.seed={SEED}",
        "train.epochs=1",
    ]


def one_round(settings: list[str], own: list[str], clients: int, scratch: Path, keep_memory: bool) -> Round:
    _, marks = marked_run([*settings, *own], scratch)
    ranks = range(clients + 1)  # the clients and the server; the aggregator waits
    ends = {rank: (marks[rank][WARM_UP], marks[rank][-2]) for rank in ranks}  # -1 is behind the last step
    tokens = clients * BATCH * TOKENS * (ends[clients][1].step - WARM_UP)
    seconds = ends[clients][1].clock - ends[clients][0].clock
    cpu = sum(last.cpu - first.cpu for first, last in ends.values())
    return Round(Pace(tokens / seconds, cpu / tokens), one_process(settings, WARM_UP, keep_memory))


def row(shape: str, clients: int, batching: str, rounds: list[Round], more: list[str]) -> str:
    threads = next((text.split("=")[1] for text in more if text.startswith("runtime.threads=")), "auto")
    ratios = [each.ratio for each in rounds]
    split, limit = (median(getattr(each, side).tokens_per_second for each in rounds) for side in ("split", "limit"))
    reach = f"{REACH[clients]:.2f}" if clients in REACH else "-"
    return (
        f"| {shape} | {clients} | {batching} | {threads} | {split:,.0f} | {limit:,.0f} | {median(ratios):.3f} | "
        f"{min(ratios):.3f}, {max(ratios):.3f} | {reach} | {median(each.work for each in rounds):.2f} |"
    )


if __name__ == "__main__":
    main()
