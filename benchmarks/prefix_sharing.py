"""How many positions prefix sharing saves before anything lossy happens, on the train files with GPT-2's tokens.

    python benchmarks/prefix_sharing.py --data FOLDER [--corpora e2e,webnlg] [--seed 0]

FOLDER holds gpt2_tokenizer/ and a folder a corpus with its train file. A sample is source, end, " " + target, end, as
`splitcom_dist.data.tokens` makes it; its positions are all tokens but the last. Gain = positions / distinct prefixes:
over the whole file, over the shards of 10 clients (each with a tree of its own), and over single batches of 8 of those
shards (what sharing gives without any memory). Also what the client's tree costs. Written to benchmarks/results/.
"""

import argparse
import gc
import json
import platform
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerBase

from splitcom_dist.codec.manifest import pack_manifest, parse_manifest
from splitcom_dist.codec.prefix import KeyBook, PrefixTree, first_occurrence
from splitcom_dist.data.batching import epoch_order
from splitcom_dist.data.corpora import load
from splitcom_dist.data.partition import iid
from splitcom_dist.data.tokens import Sample, tokenize

RESULTS = Path(__file__).parent / "results"
STATED = {"e2e": 2.54, "e2e_raw": 2.54, "webnlg": 2.23, "dart": 1.92, "gsm8k": 1.01}  # in the project's design
CLIENTS, BATCH, MAX_LENGTH = 10, 8, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpora", default=",".join(STATED))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = GPT2TokenizerFast.from_pretrained(options.data / "gpt2_tokenizer")
    measured = {
        name: measure(read(options.data / name, tokenizer), options.seed) for name in options.corpora.split(",")
    }
    report(measured, options.seed)


def read(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[Sample]:
    return tokenize(load("jsonl", str(folder), "train"), tokenizer, MAX_LENGTH, "error").samples


def measure(samples: list[Sample], seed: int) -> dict[str, float]:
    tokens = [sample.tokens for sample in samples]
    positions, prefixes = sum(map(len, tokens)) - len(tokens), distinct(tokens)
    firsts = list({sample.tokens[: sample.target_start].tobytes(): sample for sample in reversed(samples)}.values())
    of_sources = sum(sample.target_start for sample in samples)
    of_equal_sources = sum(sample.target_start for sample in firsts)
    one_target = [sample.tokens for sample in firsts]
    shards = [[samples[index] for index in shard] for shard in iid(len(samples), CLIENTS, seed)]
    epochs = [first_epoch(shard, client, seed) for client, shard in enumerate(shards)]
    return {
        "samples": len(samples),
        "sources": len(firsts),
        "positions": positions,
        "distinct": prefixes,
        "gain": positions / prefixes,
        "gain_all_tokens": (positions + len(tokens)) / distinct(np.append(text, -1) for text in tokens),
        "gain_equal_sources": positions / (positions - of_sources + of_equal_sources),
        "gain_one_target": (sum(map(len, one_target)) - len(one_target)) / distinct(one_target),
        "gain_shard": positions / sum(epoch["shard"] for epoch in epochs),
        "gain_batch": positions / sum(epoch["batches"] for epoch in epochs),
        "manifest_first_epoch": sum(epoch["first_bytes"] for epoch in epochs) / len(samples),
        "manifest_later": sum(epoch["later_bytes"] for epoch in epochs) / len(samples),
        **cost(tokens),
    }


def distinct(tokens: Iterable[np.ndarray]) -> int:
    """Distinct prefixes over all tokens but the last of each text."""
    tree = PrefixTree()
    for sample, text in enumerate(tokens):
        tree.paths([sample], [text])
    state = tree.state()
    return int((state["lengths"] - state["shared"]).sum())


def first_epoch(shard: list[Sample], client: int, seed: int) -> dict[str, int]:
    """A client's first epoch and its second, with the server's book beside it; distinct keys and bytes of manifests."""
    tree, book = PrefixTree(), KeyBook()
    keys: set[int] = set()
    counts = {"batches": 0, "first_bytes": 0, "later_bytes": 0}
    for epoch, column in enumerate(("first_bytes", "later_bytes")):
        for batch in epoch_order(len(shard), BATCH, seed, client, epoch):
            samples = [shard[index].id for index in batch]
            paths = tree.paths(samples, [shard[index].tokens for index in batch])
            manifest = pack_manifest(samples, [len(path) for path in paths], tree.news())
            book_paths = book.paths(*parse_manifest(manifest.tobytes(), len(batch)))
            assert all(map(np.array_equal, paths, book_paths))
            counts[column] += len(manifest)
            if epoch == 0:
                rows, _ = first_occurrence(np.concatenate(paths))
                counts["batches"] += len(rows)
                keys.update(np.concatenate(paths).tolist())
    return {**counts, "shard": len(keys)}


def cost(tokens: list[np.ndarray]) -> dict[str, float]:
    """CPU seconds to give all samples their keys and to give them again, and bytes of tree and book, whole file."""
    numbers = list(range(len(tokens)))
    tree, seconds = PrefixTree(), []
    for _ in range(2):
        started = time.process_time()
        for sample in numbers:
            tree.paths([sample], [tokens[sample]])
        seconds.append(time.process_time() - started)
    state = tree.state()
    del tree
    gc.collect()
    tracemalloc.start()
    traced = PrefixTree()
    for sample in numbers:
        traced.paths([sample], [tokens[sample]])
    traced.news()
    tree_bytes = tracemalloc.get_traced_memory()[0]
    book = KeyBook()
    book.load(state)
    book_bytes = tracemalloc.get_traced_memory()[0] - tree_bytes
    tracemalloc.stop()
    return {"first_s": seconds[0], "again_s": seconds[1], "tree_bytes": tree_bytes, "book_bytes": book_bytes}


def report(measured: dict[str, dict[str, float]], seed: int) -> None:
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    lines = [
        f"Train files, GPT-2's tokens; {CLIENTS} clients (iid) and batches of {BATCH}, seed {seed}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        "Gain: positions (all tokens but the last of source, end, target, end) / distinct prefixes at them.",
        "",
        "| | samples | sources | positions | distinct | gain | in shards | in batches | stated |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in measured.items():
        lines.append(
            f"| {name} | {row['samples']:,} | {row['sources']:,} | {row['positions']:,} | {row['distinct']:,} "
            f"| {row['gain']:.3f} | {row['gain_shard']:.3f} | {row['gain_batch']:.3f} | {STATED[name]:.2f} |"
        )
    lines += [
        "",
        "Other countings of the whole file: with the last token, which is only a label, as a position; sharing only "
        "sources that are equal as a whole; the first target of each source alone.",
        "",
        "| | gain | all tokens | equal sources | one target a source | stated |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in measured.items():
        lines.append(
            f"| {name} | {row['gain']:.3f} | {row['gain_all_tokens']:.3f} | {row['gain_equal_sources']:.3f} "
            f"| {row['gain_one_target']:.3f} | {STATED[name]:.2f} |"
        )
    lines += [
        "",
        "Cost: bytes of manifest a sample (id, length, parent, shared length) in the first epoch and later; size of "
        "the client's tree and the server's book, and CPU time of the tree, with the whole file in one client's hands.",
        "",
        "| | manifest, first | later | tree MB | book MB | µs a sample, first | again |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in measured.items():
        first, again = (1e6 * row[key] / row["samples"] for key in ("first_s", "again_s"))
        lines.append(
            f"| {name} | {row['manifest_first_epoch']:.1f} | {row['manifest_later']:.1f} "
            f"| {row['tree_bytes'] / 1e6:.1f} | {row['book_bytes'] / 1e6:.1f} | {first:.1f} | {again:.1f} |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    (RESULTS / "prefix_sharing.md").write_text(text)
    figures: dict[str, Any] = {"seed": seed, "versions": versions, "stated": STATED, "measured": measured}
    (RESULTS / "prefix_sharing.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
