"""The tasks of benchmarks/pareto.py, as JSON Lines drawn from the corpora: E2E, and a shift of domain."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pareto_points import SHAPES

CLIENTS = 2
VALIDATION_ROWS = 50
SHIFT = ("e2e", "webnlg", "dart")
ALPHA = 0.3  # of the Dirichlet distribution that a client's mixture is drawn from
LONGEST = 450  # characters of a row of the shifted task: what 256 tokens hold

Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    name: str
    corpus: str  # e2e or shift
    title: str
    cut_layer: int
    epochs: int
    rows: int = 64  # for training
    points: str = "common"  # the mark of the points it trains
    shapes: Sequence[str] = SHAPES
    overrides: Sequence[str] = ()  # of configs/experiment/pareto_small.yaml


SMOLLM2 = ("model=smollm2", "train.lr=5e-4", "fed.every=12")
TASKS = (
    Task("e2e", "e2e", "E2E, cut after 2 of 6 blocks", cut_layer=2, epochs=10),
    Task("shift", "shift", "Domain shift, non-IID, cut after 4 of 6 blocks", cut_layer=4, epochs=10),
    Task(
        "smollm2",
        "e2e",
        "SmolLM2-135M, E2E, cut after 3 of 30 blocks",
        cut_layer=3,
        epochs=10,
        rows=96,
        points="large",
        shapes=("standard",),
        overrides=SMOLLM2,
    ),
    Task("e2e_50", "e2e", "E2E, cut after 2 of 6 blocks", cut_layer=2, epochs=50, points="chosen"),
)


def prepare(task: Task, seed: int, source: Path, runs: Path) -> list[str]:
    """Write the files of one seed below `runs`; returns the overrides that name them."""
    corpus = task.corpus
    folder = runs / "data" / f"{task.name}-{seed}"
    rng = np.random.default_rng(seed)
    if corpus == "e2e":
        write(folder / "train.jsonl", texts(read(source / "e2e/train.jsonl.gz"), task.rows, rng))
        write(folder / "valid.jsonl", texts(read(source / "e2e/valid.jsonl.gz"), VALIDATION_ROWS, rng, most=2))
        return [f"data.path={folder}"]
    files = {name: fitting(read(source / name / "train.jsonl.gz")) for name in SHIFT}
    held_out = {}
    for name, rows in files.items():
        if (valid := source / name / "valid.jsonl.gz").is_file():
            held_out[name] = fitting(read(valid))
        else:  # GSM8K, every source once: its last rows
            rng.shuffle(rows)
            held_out[name] = [rows.pop() for _ in range(VALIDATION_ROWS)]
    for client in range(CLIENTS):
        shares = rng.multinomial(task.rows // CLIENTS, rng.dirichlet([ALPHA] * len(SHIFT)))
        rows = [row for name, share in zip(SHIFT, shares, strict=True) for row in take(files, name, share, rng)]
        write(folder / str(client) / "train.jsonl", rows)
    share = VALIDATION_ROWS // len(SHIFT)
    write(folder / "valid.jsonl", [row for name in SHIFT for row in texts(held_out[name], share, rng, most=2)])
    return [f"data.path={folder}/{{client}}/", f"data.validation_path={folder}"]


def texts(rows: Sequence[Row], count: int, rng: np.random.Generator, most: int | None = None) -> list[Row]:
    """`count` rows of random sources: all of a source's, so that prefixes are shared as in the whole corpus, or its
    first `most`, so that few rows hold many sources; the last source is cut short."""
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    sources = list(by_source)
    drawn: list[Row] = []
    for index in rng.permutation(len(sources)):
        if len(drawn) >= count:
            break
        drawn += by_source[sources[index]][:most]
    return drawn[:count]


def take(files: dict[str, list[Row]], name: str, count: int, rng: np.random.Generator) -> list[Row]:
    """Like `texts`, and the sources drawn are gone: no two clients hold the same."""
    drawn = texts(files[name], count, rng)
    gone = {row["source"] for row in drawn}
    files[name] = [row for row in files[name] if row["source"] not in gone]
    return drawn


def fitting(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if len(row["source"]) + len(row["target"]) <= LONGEST]


def read(file: Path) -> list[Row]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return [{"source": row["source"], "target": row["target"]} for row in rows]


def write(file: Path, rows: Sequence[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
