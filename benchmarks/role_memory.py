"""Peak memory of each role against the bytes that it must hold: weights, adapters, optimizer, references.

    python benchmarks/role_memory.py [--codecs none splitcom video] [--rounds 5] [key=value ...]

GPT-2 small's shape with random weights, cut after 2 blocks, one client, a server and an aggregator, 4 texts of 128
tokens a step, AdamW. `process` is what a rank of the same role takes beside what it holds where the model is the
embedded one: Python with its libraries, and the smallest of batches; `peak` is the largest resident set less that. What
is left over beside the bytes held is activations and gradients of a batch, buffers, and what the allocator keeps. Bytes
held are exact, medians are over rounds. Writes
benchmarks/results/role_memory.md; ten minutes on two idle cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from full_batches import SEED, full_texts, model_folder
from machine import machine
from step_marks import marked_run

from splitcom_dist.telemetry.summary import read

RESULTS = Path(__file__).parent / "results" / "role_memory.md"
SHAPE, BATCH, TOKENS, STEPS, EPOCHS = "gpt2", 4, 128, 3, 2
ROLES = ("client", "server", "aggregator")
KINDS = ("weights", "adapters", "optimizer", "store")
IN_MODEL, BESIDE = ("adapter", "clients", "servers"), ("mean", "moved_from")  # adapters by their names in a state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", default=["none", "splitcom", "video"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    bare = [one_run("tiny", ["codec=none"]) for _ in range(options.rounds)]
    process = [median(run[rank]["peak"] - held_by(run[rank]) for run in bare) for rank in range(len(ROLES))]
    lines = [
        "# Memory of each role",
        "",
        f"Model shape {SHAPE}, cut after 2 blocks, 1 client, {BATCH} x {TOKENS} tokens a step, AdamW, "
        f"{STEPS} batches, each visited {EPOCHS} times; MB, medians of {options.rounds} runs. Seed {SEED}. {machine()}",
        "",
        "| codec | role | weights | adapters | optimizer | store | process | peak | peak / held |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for codec in options.codecs:
        runs = [one_run(SHAPE, [f"codec={codec}", *options.settings]) for _ in range(options.rounds)]
        for rank, role in enumerate(ROLES):
            held = {kind: median(run[rank][kind] for run in runs) for kind in KINDS}
            peak = median(run[rank]["peak"] for run in runs) - process[rank]
            cells = [f"{held[kind] / 1e6:.2f}" for kind in KINDS]
            cells += [f"{process[rank] / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / sum(held.values()):.2f}"]
            lines.append(f"| {codec} | {role} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    RESULTS.write_text(text)


def one_run(shape: str, settings: list[str]) -> list[dict[str, int]]:
    """Bytes by kind, and the peak, of each rank."""
    with tempfile.TemporaryDirectory() as scratch:
        texts = full_texts(Path(scratch) / "texts", BATCH * STEPS, TOKENS)
        model = [f"model.name={model_folder(shape, Path(scratch))}", "model.cut_layer=2"]
        layout = ["roles.client_ranks=1", "fed.clients=1"]
        training = [f"train.batch_size={BATCH}", f"train.epochs={EPOCHS}", f"train.seed={SEED}", "eval.batch_size=2"]
        _, marks = marked_run([*texts, *model, *layout, *training, *settings], Path(scratch))
        summary = read(Path(scratch) / "run" / "summary.json")
    return [
        kinds_of(marks[rank][-1].held, summary.ranks[rank].weights_bytes) | {"peak": marks[rank][-1].peak}
        for rank in range(len(ROLES))
    ]


def kinds_of(held: Mapping[str, int], model: int) -> dict[str, int]:
    """A role's state by kind; `model` are the bytes of its weights, with the adapters that are a part of it."""
    kinds = dict.fromkeys(KINDS, 0) | {"weights": model}
    for name, size in held.items():
        parts = name.split(".")
        if "store" in parts:
            kinds["store"] += size
        elif "optimizer" in parts:
            kinds["optimizer"] += size
        elif parts[-1] in IN_MODEL + BESIDE:
            kinds["adapters"] += size
            kinds["weights"] -= size if parts[-1] in IN_MODEL else 0
    return kinds


def held_by(rank: Mapping[str, int]) -> int:
    """All bytes that a rank must hold."""
    return sum(rank[kind] for kind in KINDS)


if __name__ == "__main__":
    main()
