"""Perplexity against bytes: codec `video` and its rivals at several operating points, three seeds, both shapes.

    python benchmarks/pareto.py --data ../shared/data --runs /tmp/pareto --bleu  # runs that are there are reused
    python benchmarks/pareto.py --runs /tmp/pareto --report-only                 # tables and figure of what is there

Trains configs/experiment/pareto_small.yaml (the embedded model) on the tasks of pareto_data.py at the points of
pareto_points.py: E2E for 10 epochs, some points also for 50, a shift of domain with non-IID clients and a deeper cut,
and SmolLM2-135M on E2E (needs the extra smollm2). A run that fails is named and left out. Writes
benchmarks/results/pareto.{md,json,png,svg}.
152 runs (two seeds, without the 50 epochs) took about 50 minutes on two cores.
"""

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

from pareto_data import ALPHA, CLIENTS, SHIFT, TASKS, prepare
from pareto_figure import draw
from pareto_points import BASELINE, POINTS, SHAPES, Point
from pareto_runs import Result, Run, cells, result, title, train
from pareto_tables import GOAL, results_table, rivals_table, spread

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the corpora e2e, gsm8k, webnlg and dart")
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", help="methods whose names hold one of these words: none,video")
    parser.add_argument("--tasks", nargs="+", choices=[task.name for task in TASKS], help="default: all")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--epochs", type=int, help="of every task, for a trial")
    parser.add_argument("--bleu", action="store_true", help="score the texts of the chosen points")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables and the figure")
    options = parser.parse_args()
    options.runs = options.runs.resolve()
    if not options.data and not options.report_only:
        parser.error("--data is needed to train")
    words = options.only.lower().split(",") if options.only else [""]
    points = [point for point in POINTS if any(word in point.method.lower() for word in words)]
    runs = planned(points, options)
    if not options.report_only:
        train_all(runs, options)
    report(points, [found for run in runs if (found := result(run))], options.results)


def planned(points: Sequence[Point], options: argparse.Namespace) -> list[Run]:
    """Every run, seed by seed, so that what is there early covers all points."""
    tasks = [task for task in TASKS if not options.tasks or task.name in options.tasks]
    runs = []
    for seed, task, shape, point in itertools.product(options.seeds, tasks, options.shapes, points):
        if shape in task.shapes and task.points in point.marks.split():
            epochs = options.epochs or task.epochs
            folder = options.runs / f"{task.name}-{shape}-{point.folder}-{epochs}-seed{seed}"
            runs.append(Run(task, shape, point, seed, epochs, folder))
    return runs


def train_all(runs: Sequence[Run], options: argparse.Namespace) -> None:
    data = {key: prepare(*key, options.data, options.runs) for key in {(run.task, run.seed) for run in runs}}
    say(f"{len(runs)} runs, {sum(run.done for run in runs)} of them are there")
    started, failures = time.monotonic(), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(train, run, data[run.task, run.seed], options.bleu): run for run in runs}
        for count, future in enumerate(as_completed(waiting), 1):
            run, failed = waiting[future], future.result()
            failures += failed is not None
            found = result(run)
            told = f"FAILED: {failed}" if failed else ""
            if found and not failed:
                told = f"perplexity {found.summary.ppl:.2f}, {found.share:.2f} %, {found.summary.seconds:.0f} s"
            minutes = (time.monotonic() - started) / 60
            name = f"{run.task.name} {run.shape} {run.point.method} {run.point.label} seed {run.seed}"
            say(f"[{count}/{len(runs)}, {minutes:.1f} min] {name}: {told}")
    say(f"{failures} runs failed" if failures else "all runs are there")


def report(points: Sequence[Point], results: Sequence[Result], folder: Path) -> None:
    """Tables, one line of JSON a run, and the figure."""
    if not results:
        sys.exit("no run is there yet")
    lines = ["# Perplexity against bytes", "", *setting(results), ""]
    panels = {}
    for task, shape in itertools.product(TASKS, SHAPES):
        own = [each for each in results if each.run.task == task and each.run.shape == shape]
        panels[task.name, shape] = found = cells(own, points, BASELINE)
        if found:
            untuned = spread([each.summary.untuned_ppl for each in found[0].results], ".1f")
            lines += [
                f"## {title(found)}",
                "",
                f"{task.rows} training rows; perplexity before training: {untuned}.",
                "",
                *results_table(found),
                "",
            ]
            lines += ["Against the front of video:", "", *rivals_table(found), ""]
    text = "\n".join(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pareto.md").write_text(text, encoding="utf-8")
    rows = ",\n".join(json.dumps(each.row(), ensure_ascii=False, separators=(",", ":")) for each in results)
    (folder / "pareto.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    draw(panels, folder / "pareto")
    print(text)


def setting(results: Sequence[Result]) -> list[str]:
    """What was trained, and how to read the tables."""
    config, seeds = results[0].summary.config, sorted({each.run.seed for each in results})
    lora, steps = config["lora"], config["train"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return [
        f"The embedded model (6 blocks of 192) where no other is named, {CLIENTS} clients, LoRA r {lora['rank']}, "
        f"alpha {lora['alpha']:g}, batch {steps['batch_size']}; padded to {config['data']['max_length']}. The shifted "
        f"task mixes {', '.join(SHIFT)}, each client by its own draw of Dirichlet({ALPHA:g}). The seed draws rows, "
        f"mixtures, adapters and order. Seeds {', '.join(map(str, seeds))}; {versions}, {platform.machine()}.",
        "",
        "Mean ± standard deviation over seeds. Total is all that crossed: links, labels, adapters, reports and "
        "verdicts. Baselines are FP16 activations and gradients alone, of real tokens or padded. Video's front is "
        "interpolated at a rival's perplexity (log bytes linear between neighbours, nothing extrapolated); the last "
        f"column is a point that was measured. The goal is {GOAL} % above `none`.",
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
