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
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import peers_flower
import peers_pipeline
import peers_splitcom
import peers_splitlora
from peers_job import GPT2_SMALL, Job, prepare
from peers_outcome import Outcome
from peers_table import page

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
        lines = {name: own for name, (own, _) in methods.items()}
        text = page(job, options.model, bool(options.e2e), lines, {name: outcomes[name] for name in methods}, missing)
        write(text, outcomes, options.results / f"peers_{Path(options.model).name}")
    print(text)


def write(text: str, outcomes: dict[str, list[Outcome]], target: Path) -> None:
    """After every round, so that an interrupted series is not lost."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    figures = {name: [asdict(each) for each in own] for name, own in outcomes.items()}
    target.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


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
        peers_splitlora.program(options.splitlora)
        own = {"checkout": options.splitlora, "python": options.splitlora_python, "shim": options.splitlora_shim}
        lines = len(peers_splitlora.options(job, Path()))
        methods["SplitLoRA's program"] = lines, partial(peers_splitlora.run, job, **own)
    if options.flower_python is None:
        missing["Flower, FedAvg of LoRA"] = "not run: no --flower-python"
    else:
        peers_flower.check(options.flower_python)
        run = partial(peers_flower.run, job, python=options.flower_python)
        methods["Flower, FedAvg of LoRA"] = peers_flower.lines(), run
    methods["torch pipelining, 2 stages"] = peers_pipeline.lines(job), partial(peers_pipeline.run, job)
    if options.only:
        methods = {name: method for name, method in methods.items() if any(word in name for word in options.only)}
    return methods, missing


if __name__ == "__main__":
    main()
