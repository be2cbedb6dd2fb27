"""One run of benchmarks/pareto.py: trained as a subprocess, and what its summary says."""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pareto_data import CLIENTS, Task
from pareto_points import Point

from splitcom_dist.links import is_upward
from splitcom_dist.telemetry.summary import Summary, read

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "experiment" / "pareto_small.yaml"
COMMAND = [sys.executable, "-m", "splitcom_dist"]
SHAPE_NAMES = {"standard": "standard shape", "u_shape": "U-shape"}
SENTENCES = ["--limit", "30", "--batch-size", "32"]  # of greedy texts, for BLEU


@dataclass(frozen=True)
class Run:
    task: Task
    shape: str
    point: Point
    seed: int
    epochs: int
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").is_file()


@dataclass(frozen=True)
class Result:
    """Bytes are those of the whole run."""

    run: Run
    summary: Summary
    bleu: float | None

    def baseline(self, kind: str) -> int:
        """FP16 bytes over all links: kind raw_real_bytes or raw_padded_bytes."""
        return sum(link[kind] for link in self.summary.links.values())

    @property
    def share(self) -> float:
        """All bytes, in per cent of real-token FP16."""
        return 100 * self.summary.wire_bytes / self.baseline("raw_real_bytes")

    @property
    def uplink(self) -> int:
        return sum(link["wire_bytes"] for name, link in self.summary.links.items() if is_upward(name))

    def row(self) -> dict[str, Any]:
        """The run in a line of JSON; frames are I, P, S and C of all links."""
        run, summary = self.run, self.summary
        return {
            "task": run.task.name,
            "shape": run.shape,
            "method": run.point.method,
            "point": run.point.label,
            "seed": run.seed,
            "epochs": run.epochs,
            "untuned_ppl": round(summary.untuned_ppl, 2),
            "ppl": round(summary.ppl, 4),
            "seconds": round(summary.seconds, 1),
            "total": summary.wire_bytes,
            "adapters": summary.adapter_bytes,
            "control": summary.control_bytes,
            "real_fp16": self.baseline("raw_real_bytes"),
            "padded_fp16": self.baseline("raw_padded_bytes"),
            "links": {name: link["wire_bytes"] for name, link in summary.links.items()},
            "frames": [sum(link[kind] for link in summary.links.values()) for kind in "IPSC"],
            "bleu": self.bleu and round(self.bleu, 2),
        }


def train(run: Run, data: Sequence[str], bleu: bool) -> str | None:
    """Train, and score the texts of chosen points; returns why it failed. What is there already is left alone."""
    if not run.done:
        shutil.rmtree(run.folder, ignore_errors=True)  # of a run that was broken off
        settings = [*run.task.overrides, *data, f"model.cut_layer={run.task.cut_layer}"]
        settings += [f"train.epochs={run.epochs}", f"train.seed={run.seed}", f"fed.clients={CLIENTS}"]
        settings += run.point.overrides(run.shape)
        if failed := call(["train", str(CONFIG), *settings, "--out", str(run.folder)]):
            return failed
    if bleu and "chosen" in run.point.marks and not (run.folder / "evaluation.json").is_file():
        return call(["evaluate", str(run.folder), *SENTENCES])
    return None


def call(arguments: Sequence[str]) -> str | None:
    # In ROOT, so that a copy of the repository trains with its own package, whichever is installed.
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in lines if line.startswith("error:")), lines[-1])


def result(run: Run) -> Result | None:
    """None for a run that has not come to its end."""
    if not run.done:
        return None
    scores = run.folder / "evaluation.json"
    bleu = json.loads(scores.read_text())["bleu"] if scores.is_file() else None
    return Result(run, read(run.folder / "summary.json"), bleu)


@dataclass(frozen=True)
class Cell:
    """A point on one task and shape: its results over the seeds, and its perplexity against codec `none` in per cent,
    on those seeds that have both."""

    point: Point
    results: Sequence[Result]
    ratios: Sequence[float]

    @property
    def loss(self) -> float:
        """Mean rise of perplexity in per cent."""
        return statistics.mean(self.ratios)

    @property
    def share(self) -> float:
        """Mean of all bytes in per cent of real-token FP16."""
        return statistics.mean(each.share for each in self.results)

    @property
    def name(self) -> str:
        return f"{self.point.method}, {self.point.label}" if self.point.label else self.point.method


def title(cells: Sequence[Cell]) -> str:
    run = cells[0].results[0].run
    return f"{run.task.title}, {run.epochs} epochs: {SHAPE_NAMES[run.shape]}"


def cells(results: Sequence[Result], points: Sequence[Point], baseline: str) -> list[Cell]:
    """One Cell for every point with a result; `results` are those of one task and shape."""
    base = {each.run.seed: each.summary.ppl for each in results if each.run.point.method == baseline}
    found = []
    for point in points:
        own = [each for each in results if each.run.point == point]
        ratios = [100 * (each.summary.ppl / base[each.run.seed] - 1) for each in own if each.run.seed in base]
        if ratios:
            found.append(Cell(point, own, ratios))
    return found
