"""SplitFT's experiments at the size of two cores: perplexity with cuts that adapt, and with a lower rank at the cut.

    python benchmarks/splitft.py --runs /tmp/splitft --e2e FOLDER [--wikitext FILE] [--smollm2]
    python benchmarks/splitft.py --runs /tmp/splitft --e2e FOLDER [--wikitext FILE] [--smollm2] --report-only

4 clients whose speeds spread 4x, shards drawn by length (Dirichlet with alpha 0.1, 0.5, 1): one cut for all, SplitFT's
policy, and ours; and LoRA rank 8 everywhere against 4 and 2 next to the cut. Three seeds. The embedded model on E2E and
WikiText-2, and SmolLM2-135M on E2E with alpha 0.5. FOLDER holds E2E's train and valid files, FILE is WikiText-2's
validation text. Runs that are there are reused. Writes benchmarks/results/splitft.md; on two cores the embedded model's
66 runs take an hour, SmolLM2's 21 somewhat longer (15 of twelve steps, 6 of twenty-four).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from pareto_runs import call

from splitcom_dist.telemetry.hdf5 import read as rows_of
from splitcom_dist.telemetry.summary import read

RESULTS = Path(__file__).parent / "results" / "splitft.md"
SETTINGS = [
    *("lora.rank=8", "lora.alpha=16", "roles.client_ranks=2", "fed.clients=4"),
    *("data.partition=dirichlet_length", "data.min_shard=8", "data.max_length=128", "data.overlong=truncate"),
    *("train.batch_size=8", "train.lr=1e-3"),
    *("fed.speed.dist=list", "fed.speed.values=[1,0.75,0.5,0.25]", "runtime.threads=1", "telemetry.progress=false"),
]
POLICIES = ("static", "splitft", "balance_time")
ALPHAS, CUT_RANKS = (0.1, 0.5, 1.0), (8, 4, 2)


@dataclass(frozen=True)
class Experiment:
    """A model on a corpus."""

    what: str
    corpus: str
    cut_layer: int  # where all begin, and stay if nobody moves them
    deepest: int
    epochs: int
    settings: tuple[str, ...]
    alphas: tuple[float, ...] = ALPHAS
    policies: tuple[str, ...] = POLICIES
    cut_ranks: tuple[int, ...] = CUT_RANKS  # the first is that of all blocks


EXPERIMENTS = {
    "e2e": Experiment(
        "the embedded model (6 blocks), 320 samples of E2E, averaging every 4 steps",
        *("e2e", 2, 5, 3),
        ("fed.every=4", "data.train_samples=320", "data.validation_samples=100"),
    ),
    "wikitext2": Experiment(
        "the embedded model, 6 articles of WikiText-2 in 304 windows of 128 tokens, averaging every 4 steps",
        *("wikitext2", 2, 5, 3),
        ("fed.every=4", "data.train_samples=6", "data.validation_samples=3"),
    ),
    "smollm2": Experiment(
        "SmolLM2-135M (30 blocks), 192 samples of E2E, averaging every 2 steps",
        *("e2e", 6, 15, 2),
        ("model.name=smollm2", "fed.every=2", "data.train_samples=192", "data.validation_samples=64"),
        (0.5,),
    ),
    "smollm2_longer": Experiment(
        "SmolLM2-135M, 192 samples of E2E, averaging every 2 steps",
        *("e2e", 6, 15, 4),
        ("model.name=smollm2", "fed.every=2", "data.train_samples=192", "data.validation_samples=64"),
        (0.5,),
        ("static", "balance_time"),
        (),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    parser.add_argument("--e2e", type=Path, required=True)
    parser.add_argument("--wikitext", type=Path)
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    paths = {"e2e": options.e2e.resolve()} | ({"wikitext2": options.wikitext.resolve()} if options.wikitext else {})
    names = [*paths, *(["smollm2", "smollm2_longer"] if options.smollm2 else [])]
    runs = options.runs.resolve()
    if not options.report_only:
        for seed, name in product(options.seeds, names):
            for cell, overrides in cells(name, paths):
                folder = runs / f"{cell}-seed{seed}"
                if not (folder / "summary.json").is_file():
                    print(folder.name, file=sys.stderr, flush=True)
                    if failed := call(["train", *SETTINGS, *overrides, f"train.seed={seed}", "--out", str(folder)]):
                        sys.exit(f"{folder}: {failed}")
    text = "\n".join(report(names, runs, options.seeds))
    print(text)
    RESULTS.write_text(text)


def cells(name: str, paths: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Every setting of an experiment, by name."""
    own = EXPERIMENTS[name]
    common = [f"data.name={own.corpus}", f"data.path={paths[own.corpus]}", *own.settings]
    common += [f"model.cut_layer={own.cut_layer}", f"train.epochs={own.epochs}"]
    for alpha, policy in product(own.alphas, own.policies):
        moving = [] if policy == "static" else [f"fed.cuts.policy={policy}", f"fed.cuts.deepest={own.deepest}"]
        yield cell(name, alpha, policy), [*common, f"data.alpha={alpha}", *moving]
    for rank in own.cut_ranks[1:]:
        yield f"{name}-rank{rank}", [*common, "data.alpha=0.5", f"lora.cut_rank={rank}"]


def cell(name: str, alpha: float, policy: str) -> str:
    return f"{name}-alpha{alpha}-{policy}"


def report(names: Sequence[str], runs: Path, seeds: Sequence[int]) -> list[str]:
    lines = [
        "# SplitFT's experiments at the size of two cores",
        "",
        "4 clients at 1, 0.75, 0.5 and 0.25 of the machine's speed, shards by length; AdamW at 1e-3. Perplexity on "
        f"held-out text, mean and standard deviation over seeds {', '.join(map(str, seeds))}; the change is the mean "
        f"over seeds of each seed's own. Moves are those of a mean run. torch {version('torch')}.",
        "",
    ]
    for name in names:
        own = EXPERIMENTS[name]
        lines += [f"## {name}: who moves the cuts", ""]
        lines += [
            f"{own.what[0].upper()}{own.what[1:]}, {own.epochs} epochs; static: all after {own.cut_layer} blocks."
        ]
        lines += ["", "| alpha | policy | perplexity | change | moves |", "|---:|---|---:|---:|---:|"]
        for alpha, policy in product(own.alphas, own.policies):
            still, these = ([runs / f"{cell(name, alpha, one)}-seed{n}" for n in seeds] for one in ("static", policy))
            moves = fmean(map(moves_of, these))
            lines.append(f"| {alpha} | {policy} | {told(these)} | {change(these, still)} | {moves:.1f} |")
        lines.append("")
        if not own.cut_ranks:
            continue
        lines += [f"## {name}: rank next to the cut, alpha 0.5", ""]
        lines += ["| rank | perplexity | change | adapter bytes |", "|---:|---:|---:|---:|"]
        whole = [runs / f"{cell(name, 0.5, 'static')}-seed{seed}" for seed in seeds]
        for rank in own.cut_ranks:
            these = whole if rank == 8 else [runs / f"{name}-rank{rank}-seed{seed}" for seed in seeds]
            size = fmean(read(run / "summary.json").adapter_bytes for run in these)
            lines.append(f"| {rank} | {told(these)} | {change(these, whole)} | {size:,.0f} |")
        lines.append("")
    return lines


def told(runs: list[Path]) -> str:
    values = [read(run / "summary.json").ppl for run in runs]
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def change(runs: list[Path], before: list[Path]) -> str:
    pairs = zip(runs, before, strict=True)
    mean = fmean(read(one / "summary.json").ppl / read(other / "summary.json").ppl - 1 for one, other in pairs)
    return f"{100 * mean:+.2f} %"


def moves_of(run: Path) -> int:
    events = rows_of(run / "run.h5", "events")
    return int(((events["kind"] == b"cut") & (events["step"] >= 0)).sum())


if __name__ == "__main__":
    main()
