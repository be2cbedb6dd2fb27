"""How long a round lasts when clients' speeds spread 4x: the best cut for all against cuts that adapt.

    python benchmarks/splitft_time.py [--rows gpt2:even gpt2:slower gpt2:straggler opt:straggler gpt_neo:straggler]

GPT2-small, OPT-125M and GPT-Neo-125M in their full shapes with random weights (time does not depend on them), 4 clients
whose speeds spread 4x: evenly, up to the server's own speed or up to half of it, or one slow client among three. One
cut for all, at several depths, then fed.cuts.policy=balance_time, whose rounds count once its cuts have come to rest. A
round is what the server's steps last, with their waiting; the median over rounds. Foreseen is what the policy's own
model of a step gives for clients of exactly these speeds, with links that cost nothing. 4 minutes a row on two quiet
cores. Prints and writes benchmarks/results/splitft_time.md.
"""

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
from pareto_runs import ROOT, call

from splitcom_dist.analysis.course import course_of
from splitcom_dist.analysis.logs import open_run
from splitcom_dist.config.files import load_config
from splitcom_dist.cuts.balance_time import BalanceTime
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.work import TurnTime, work_of
from splitcom_dist.layout import layout_for
from splitcom_dist.models.sources import find_model
from splitcom_dist.telemetry.hdf5 import read

RESULTS = Path(__file__).parent / "results" / "splitft_time.md"
MODELS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "gpt2": transformers.GPT2Config,
    "opt": transformers.OPTConfig,
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]]
    ),
}
EXTENSIONS = {"gpt_neo": str(ROOT / "docs" / "examples" / "gpt_neo.py")}
SPEEDS = {  # of the server's
    "even": [1.0, 0.75, 0.5, 0.25],
    "slower": [0.5, 0.375, 0.25, 0.125],
    "straggler": [0.5, 0.5, 0.5, 0.125],
}
ROWS = ["gpt2:even", "gpt2:slower", "gpt2:straggler", "opt:straggler", "gpt_neo:straggler"]
DEEPEST, ROUND_STEPS = 11, 2
CUTS = (1, 2, 3, 4, 5, 6, 8, 11)
SETTINGS = [
    *("roles.client_ranks=4", "fed.clients=4", f"fed.every={ROUND_STEPS}", "data.validation_samples=2"),
    *("data.max_length=48", "train.batch_size=1", "fed.speed.dist=list"),
    *("codec=fp16", "eval.every=100", "runtime.threads=1", "telemetry.progress=false"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [f"{name}:{speeds}" for name in MODELS for speeds in SPEEDS]
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=rows, metavar="MODEL:SPEEDS")
    options = parser.parse_args()
    lines = [
        "# A round with slow and fast clients",
        "",
        f"12 blocks of width 768, 4 clients, 1 sample of at most 48 tokens a turn, {ROUND_STEPS} steps a round, one "
        "thread a rank, all ranks on one machine of two cores. Speeds are of the server's. Seconds a round, median. "
        f"torch {version('torch')}, {platform.machine()}.",
        "",
        f"| model | speeds | {' | '.join(f'cut {cut}' for cut in CUTS)} | adapted | sooner than the best | foreseen "
        "| cuts |",
        f"|---|---|{'---:|' * (len(CUTS) + 3)}---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for name, speeds in (each.split(":") for each in options.rows):
            lines.append(row(name, save(name, Path(scratch) / name), SPEEDS[speeds]))
            print(lines[-1], file=sys.stderr, flush=True)
            RESULTS.write_text("\n".join([*lines, ""]))
    print(RESULTS.read_text())


def row(name: str, folder: Path, speeds: list[float]) -> str:
    """Measure all cuts and the policy."""
    at = f"fed.speed.values={speeds}"
    still = [round_seconds(name, folder, rounds=5, skip=1, overrides=[at, f"model.cut_layer={c}"])[0] for c in CUTS]
    adapt = [at, "model.cut_layer=2", "fed.cuts.policy=balance_time", f"fed.cuts.deepest={DEEPEST}"]
    adapted, cuts = round_seconds(name, folder, rounds=12, skip=7, overrides=adapt)
    told = [f"{seconds:.2f}" for seconds in (*still, adapted)]
    told += [f"{100 * (1 - adapted / min(still)):.1f} %", f"{100 * foreseen(name, folder, speeds):.0f} %"]
    return f"| {name} | {', '.join(map(str, speeds))} | {' | '.join(told)} | {', '.join(map(str, cuts))} |"


def foreseen(name: str, folder: Path, speeds: list[float]) -> float:
    """Share of the best cut's step that the policy saves where a client's block takes 1 / speed of the server's."""
    layout = layout_for(load_config(overrides=["roles.client_ranks=4", "fed.clients=4", *extension_of(name)]))
    work = work_of(transformers.AutoModelForCausalLM.from_pretrained(folder), tail_layers=0)
    policy = BalanceTime(0.0, work, layout)
    times = {client: TurnTime(work, 1 / speed, 0.0, 1.0, 0.0) for client, speed in enumerate(speeds)}
    still = min(policy.step_seconds(dict.fromkeys(times, cut), times) for cut in range(1, DEEPEST + 1))
    adapted = min(policy.step_seconds(choice, times) for choice in policy.choices(times, Cuts([2] * 4, 1, DEEPEST)))
    return 1 - adapted / still


def extension_of(name: str) -> list[str]:
    return [f"extensions=[{EXTENSIONS[name]}]"] if name in EXTENSIONS else []


def save(name: str, folder: Path) -> Path:
    """A model of this shape, with random weights and the embedded model's tokenizer, unless it is there already."""
    if folder.is_dir():
        return folder
    save_random(MODELS[name](), folder)
    return folder


def save_random(config: transformers.PretrainedConfig, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Random weights in `dtype`, and the embedded model's tokenizer."""
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    for file in Path(find_model("tiny").folder).glob("tokenizer*"):
        shutil.copy(file, folder)


def round_seconds(
    name: str, folder: Path, rounds: int, skip: int, overrides: list[str]
) -> tuple[float, tuple[int, ...]]:
    """Median length of the rounds after the first ones, and the cuts at the end."""
    samples = 4 * rounds * ROUND_STEPS
    own = [f"model.name={folder}", f"data.train_samples={samples}", "train.epochs=1", *overrides, *extension_of(name)]
    out = folder.with_suffix(".run")
    shutil.rmtree(out, ignore_errors=True)
    if failed := call(["train", *SETTINGS, *own, "--out", str(out)]):
        sys.exit(f"{name}: {failed}")
    steps = read(out / "run.h5", "train")
    steps = steps[steps["client"] == -1]
    lengths = [
        float(np.sum(of["seconds"] + of["wait"]))
        for of in (steps[steps["step"] // ROUND_STEPS == number] for number in range(skip, rounds))
    ]
    last = {cut.client: cut.blocks for cut in course_of(open_run(out)).cuts}  # a client's cuts are in their order
    return median(lengths), tuple(last.values())


if __name__ == "__main__":
    main()
