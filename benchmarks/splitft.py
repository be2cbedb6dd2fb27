"""SplitFT's experiments at the size of two cores: perplexity with cuts that adapt, and with a lower rank at the cut.

    python benchmarks/splitft.py --runs /tmp/splitft --e2e FOLDER [--wikitext FILE]  # runs that are there are reused
    python benchmarks/splitft.py --runs /tmp/splitft --e2e FOLDER --report-only

The embedded model, 4 clients whose speeds spread 4x, shards drawn by length (Dirichlet with alpha 0.1, 0.5, 1): a cut
after 2 blocks for all, SplitFT's policy, and ours; and LoRA rank 8 everywhere against 4 and 2 next to the cut. Three
seeds. FOLDER holds E2E's train and valid files, FILE is WikiText-2's validation text. Writes
benchmarks/results/splitft.md.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from pareto_runs import call

from splitcom_dist.telemetry.hdf5 import read as rows_of
from splitcom_dist.telemetry.summary import read

RESULTS = Path(__file__).parent / "results" / "splitft.md"
SETTINGS = [
    *("model.cut_layer=2", "lora.rank=8", "lora.alpha=16", "roles.client_ranks=2", "fed.clients=4", "fed.every=4"),
    *("data.partition=dirichlet_length", "data.min_shard=8", "data.max_length=128", "data.overlong=truncate"),
    *("train.batch_size=8", "train.lr=1e-3"),
    *("fed.speed.dist=list", "fed.speed.values=[1,0.75,0.5,0.25]", "runtime.threads=1", "telemetry.progress=false"),
]
AMOUNTS = {
    "e2e": ["data.train_samples=320", "data.validation_samples=100"],
    "wikitext2": ["data.train_samples=6", "data.validation_samples=3"],  # articles: 304 windows to train on
}
POLICIES = {
    "cut 2": [],
    "splitft": ["fed.cuts.policy=splitft", "fed.cuts.deepest=5"],
    "balance_time": ["fed.cuts.policy=balance_time", "fed.cuts.deepest=5"],
}
ALPHAS, CUT_RANKS = (0.1, 0.5, 1.0), (8, 4, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    parser.add_argument("--e2e", type=Path, required=True)
    parser.add_argument("--wikitext", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    texts = {"e2e": options.e2e} | ({"wikitext2": options.wikitext} if options.wikitext else {})
    runs = options.runs.resolve()
    if not options.report_only:
        for seed, (name, overrides) in product(options.seeds, cells(texts)):
            folder = runs / f"{name}-seed{seed}"
            if not (folder / "summary.json").is_file():
                print(folder.name, file=sys.stderr, flush=True)
                own = [*overrides, f"train.seed={seed}", f"train.epochs={options.epochs}"]
                if failed := call(["train", *SETTINGS, *own, "--out", str(folder)]):
                    sys.exit(f"{folder}: {failed}")
    text = "\n".join(report(texts, runs, options))
    print(text)
    RESULTS.write_text(text)


def cells(texts: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Every setting by name."""
    for corpus, path in texts.items():
        data = [f"data.name={corpus}", f"data.path={path.resolve()}", *AMOUNTS[corpus]]
        for alpha, (policy, overrides) in product(ALPHAS, POLICIES.items()):
            yield f"{corpus}-alpha{alpha}-{policy.replace(' ', '')}", [*data, f"data.alpha={alpha}", *overrides]
        for rank in CUT_RANKS[1:]:
            yield f"{corpus}-rank{rank}", [*data, "data.alpha=0.5", f"lora.cut_rank={rank}"]


def report(texts: Mapping[str, Path], runs: Path, options: argparse.Namespace) -> list[str]:
    lines = [
        "# SplitFT's experiments at the size of two cores",
        "",
        "The embedded model (6 blocks), 320 samples of E2E or 304 windows of WikiText-2, 4 clients at 1, 0.75, 0.5 and "
        f"0.25 of the machine's speed, shards by length; {options.epochs} epochs, AdamW at 1e-3, averaging every 4 "
        f"steps. Perplexity on held-out text, mean and standard deviation over seeds {options.seeds}; the change is "
        f"the mean over seeds of each seed's own. Moves are those of a mean run. torch {version('torch')}.",
        "",
    ]
    for corpus in texts:
        lines += [f"## {corpus}: who moves the cuts", ""]
        lines += ["| alpha | policy | perplexity | change | moves |", "|---:|---|---:|---:|---:|"]
        for alpha, policy in product(ALPHAS, POLICIES):
            still, these = (
                [runs / f"{corpus}-alpha{alpha}-{name.replace(' ', '')}-seed{seed}" for seed in options.seeds]
                for name in ("cut 2", policy)
            )
            moves = fmean(map(moves_of, these))
            lines.append(f"| {alpha} | {policy} | {told(these)} | {change(these, still)} | {moves:.1f} |")
        lines += ["", f"## {corpus}: rank next to the cut, alpha 0.5", ""]
        lines += ["| rank | perplexity | change | adapter bytes |", "|---:|---:|---:|---:|"]
        whole = [runs / f"{corpus}-alpha0.5-cut2-seed{seed}" for seed in options.seeds]
        for rank in CUT_RANKS:
            these = whole if rank == 8 else [runs / f"{corpus}-rank{rank}-seed{seed}" for seed in options.seeds]
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
