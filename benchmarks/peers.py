"""The same job with this project, SplitLoRA's own program, Flower (no split) and torch.distributed.pipelining.

    python benchmarks/peers.py --work /tmp/peers --flower-python FLOWER/bin/python --splitlora CHECKOUT
    python benchmarks/peers.py --work /tmp/peers --model tiny --flower-python FLOWER/bin/python

GPT-2 small's shape with random weights (or --model), texts of the built-in corpus (or --e2e), three clients; every
method in processes of its own, all on the same two cores. A row is the median of --rounds runs; in every round the
methods take turns. docs/peers.md says how each is run, how to make its environment, and what is counted. Needs root
and iproute2: every party gets a network namespace. Writes benchmarks/results/peers_MODEL.{md,json}.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import peers_flower
import peers_pipeline
import peers_splitcom
import peers_splitlora
from peers_job import CLIENTS, GPT2_SMALL, HELD_OUT, Job, prepare
from peers_outcome import Outcome

RESULTS = Path(__file__).parent / "results"
CORES = 2
CODECS = ("none", "video")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where data, models and logs go")
    parser.add_argument("--model", default=GPT2_SMALL, help="gpt2 (random weights), tiny, or a folder of a GPT-2")
    parser.add_argument("--e2e", type=Path, help="folder with the corpus E2E; default: the built-in corpus")
    parser.add_argument("--steps", type=int, default=17, help="of every client in an epoch")
    parser.add_argument("--epochs", type=int, default=2, help="at least 2: the first is the warm-up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flower-python", type=Path, help="interpreter with flwr, torch, transformers and peft")
    parser.add_argument("--splitlora", type=Path, help="checkout of FDU-INC/Split_LoRA")
    parser.add_argument("--splitlora-python", type=Path, default=Path(sys.executable), help="with pandas and openpyxl")
    parser.add_argument("--splitlora-shim", type=Path, help="folder put on its PYTHONPATH, for a machine without CUDA")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="methods whose name has one of these")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("error: parties are network namespaces: run it as root, with iproute2 installed")
    if options.epochs < 2:
        sys.exit("error: --epochs must be at least 2: the first one is not measured")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # parties end, and their network with them
    figures = options.steps, options.epochs, options.batch
    job = prepare(options.work.resolve() / "job", options.model, *figures, options.e2e)
    methods, missing = choose(job, options)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in methods}
    for number in range(options.rounds):
        for name, (_, run) in list(methods.items()):
            folder = options.work.resolve() / f"{number}-{re.sub('[^a-zA-Z0-9]+', '-', name)}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"round {number + 1}/{options.rounds}: {name}", file=sys.stderr, flush=True)
            try:
                outcomes[name].append(run(folder))
            except (RuntimeError, ValueError, OSError) as error:  # of its program: the others' figures stand
                missing[name] = f"failed: {error}".replace("|", "/")
                del methods[name]
    report(job, {name: lines for name, (lines, _) in methods.items()}, outcomes, missing, options)


Methods = dict[str, tuple[int, Callable[[Path], Outcome]]]  # by name: lines a user writes, and what runs it


def choose(job: Job, options: argparse.Namespace) -> tuple[Methods, dict[str, str]]:
    """The methods that can be run here, and why the others cannot."""
    methods: Methods = {}
    missing = {}
    for codec in CODECS:
        lines = len(peers_splitcom.settings(job, codec))
        methods[f"this project, codec {codec}"] = lines, partial(peers_splitcom.run, job, codec=codec)
    if options.splitlora is None:
        missing["SplitLoRA's program"] = "not run: no --splitlora"
    elif reason := peers_splitlora.unfit(job):
        missing["SplitLoRA's program"] = f"not run: {reason}"
    else:
        own = {"checkout": options.splitlora, "python": options.splitlora_python, "shim": options.splitlora_shim}
        lines = len(peers_splitlora.options(job, Path()))
        methods["SplitLoRA's program"] = lines, partial(peers_splitlora.run, job, **own)
    if options.flower_python is None:
        missing["Flower, FedAvg of LoRA"] = "not run: no --flower-python"
    else:
        run = partial(peers_flower.run, job, python=options.flower_python)
        methods["Flower, FedAvg of LoRA"] = peers_flower.lines(), run
    methods["torch pipelining, 2 stages"] = peers_pipeline.lines(job), partial(peers_pipeline.run, job)
    if options.only:
        methods = {name: method for name, method in methods.items() if any(word in name for word in options.only)}
    return methods, missing


def report(
    job: Job,
    lines: dict[str, int],
    outcomes: dict[str, list[Outcome]],
    missing: dict[str, str],
    options: argparse.Namespace,
) -> None:
    shape, base = job.shape, next(iter(lines), "")
    corpus = "E2E" if options.e2e else "the built-in corpus"
    text = [
        "# The same job with others",
        "",
        f"{'GPT-2 small, random weights' if options.model == GPT2_SMALL else Path(options.model).name} "
        f"({shape.n_layer} x {shape.n_embd}, vocabulary {shape.vocab_size:,}), {corpus}, {CLIENTS} clients of "
        f"{job.steps * job.batch} texts, {job.epochs} epochs, batch {job.batch}, LoRA rank {job.rank}, AdamW at "
        f"{job.lr:g}; {job.epoch_tokens:,} positions an epoch without padding, texts of at most {job.longest} tokens, "
        f"{HELD_OUT} held out. {platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}; "
        f"medians of {options.rounds} interleaved runs. How each was run and what is counted: docs/peers.md.",
        "",
        "| | tokens/s | least to most | of the first row | MB sent | own count | memory, all | largest process "
        "| lines written | held-out loss | whole run |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, own in outcomes.items():
        if name in lines:
            text.append(f"| {name} | {row(own, outcomes[base], lines[name])} |")
    text += [f"| {name} | {reason} |{' |' * 9}" for name, reason in missing.items()]
    for name, own in outcomes.items():
        if shares := [each.training for each in own if each.training is not None]:
            share = statistics.median(shares)
            text += [
                "",
                f"{name}: clients trained for {share:.0%} of the time behind its tokens/s; the rest of it starts",
            ]
            text[-1] += " processes, loads models, sends and averages."
    options.results.mkdir(parents=True, exist_ok=True)
    target = options.results / f"peers_{Path(options.model).name}"
    target.with_suffix(".md").write_text("\n".join([*text, ""]), encoding="utf-8")
    figures = {name: [asdict(each) for each in own] for name, own in outcomes.items()}
    target.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print("\n".join(text))


def row(own: Sequence[Outcome], base: Sequence[Outcome], lines: int) -> str:
    """Cells of one method but the first; the ratio is the median over rounds, each against its own round."""
    rates = [each.tokens_per_second for each in own]
    ratio = statistics.median(each.tokens_per_second / of.tokens_per_second for each, of in zip(own, base, strict=True))
    losses, counted = [each.loss for each in own if each.loss is not None], own[0].own_count
    cells = [
        f"{statistics.median(rates):,.0f}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        f"{ratio:.2f}",
        f"{statistics.median(each.sent for each in own) / 1e6:,.2f}",
        f"{counted / 1e6:,.2f}" if counted is not None else "-",
        f"{statistics.median(each.memory_sum for each in own) / 1e6:,.0f} MB",
        f"{statistics.median(each.memory_largest for each in own) / 1e6:,.0f} MB",
        str(lines),
        f"{statistics.median(losses):.3f}" if losses else "-",
        f"{statistics.median(each.seconds for each in own):.0f} s",
    ]
    return " | ".join(cells)


if __name__ == "__main__":
    main()
