"""How long a round lasts when clients' speeds spread 4x: the best cut for all against cuts that adapt.

    python benchmarks/splitft_time.py [--models gpt2 opt gpt_neo]

GPT2-small, OPT-125M and GPT-Neo-125M in their full shapes with random weights (time does not depend on them), 4 clients
at 1, 0.75, 0.5 and 0.25 of the machine's speed. One cut for all, at several depths, then fed.cuts.policy=balance_time,
whose rounds count once its cuts have come to rest. A round is what the server's steps last, with their waiting; the
median over rounds. Prints and writes benchmarks/results/splitft_time.md.
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
import transformers
from pareto_runs import ROOT, call

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
SPEEDS, DEEPEST, ROUND_STEPS = [1.0, 0.75, 0.5, 0.25], 11, 2
CUTS = (1, 2, 4, 6, 8, 11)
SETTINGS = [
    *("roles.client_ranks=4", "fed.clients=4", f"fed.every={ROUND_STEPS}", "data.validation_samples=2"),
    *("data.max_length=48", "train.batch_size=1", "fed.speed.dist=list", f"fed.speed.values={SPEEDS}"),
    *("codec=fp16", "eval.every=100", "runtime.threads=1", "telemetry.progress=false"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    lines = [
        "# A round with slow and fast clients",
        "",
        f"12 blocks of width 768, 4 clients at {SPEEDS} of the machine's speed, 1 sample of at most 48 tokens a turn, "
        f"{ROUND_STEPS} steps a round, one thread a rank, all ranks on one machine of two cores. Seconds a round, "
        f"median. torch {version('torch')}, {platform.machine()}.",
        "",
        f"| model | {' | '.join(f'cut {cut}' for cut in CUTS)} | adapted | sooner than the best | cuts |",
        f"|---|{'---:|' * (len(CUTS) + 2)}---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            folder = save(name, Path(scratch) / name)
            still = [round_seconds(name, folder, rounds=5, skip=1, overrides=[f"model.cut_layer={c}"])[0] for c in CUTS]
            adapt = ["model.cut_layer=2", "fed.cuts.policy=balance_time", f"fed.cuts.deepest={DEEPEST}"]
            adapted, cuts = round_seconds(name, folder, rounds=12, skip=7, overrides=adapt)
            told = [f"{seconds:.2f}" for seconds in (*still, adapted)]
            best = f"{100 * (1 - adapted / min(still)):.1f} %"
            lines.append(f"| {name} | {' | '.join(told)} | {best} | {', '.join(map(str, cuts))} |")
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    RESULTS.write_text(text)


def save(name: str, folder: Path) -> Path:
    """A model of this shape, with random weights and the embedded model's tokenizer."""
    config = MODELS[name]()
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in Path(find_model("tiny").folder).glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def round_seconds(
    name: str, folder: Path, rounds: int, skip: int, overrides: list[str]
) -> tuple[float, tuple[int, ...]]:
    """Median length of the rounds after the first ones, and the cuts at the end."""
    samples = 4 * rounds * ROUND_STEPS
    own = [f"model.name={folder}", f"data.train_samples={samples}", "train.epochs=1", *overrides]
    if name in EXTENSIONS:
        own.append(f"extensions=[{EXTENSIONS[name]}]")
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
    cuts = [2] * len(SPEEDS)
    events = read(out / "run.h5", "events")
    for text in (row["text"].decode() for row in events if row["kind"] == b"cut" and row["step"] >= 0):
        client, _, told = text.removeprefix("client ").partition(": cut ")
        cuts[int(client)] = int(told.split()[2])
    return median(lengths), tuple(cuts)


if __name__ == "__main__":
    main()
