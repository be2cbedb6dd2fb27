"""SplitCom's grid, scaled to two cores: SplitLoRA, frozen, and SplitCom under three controls, with and without INT8,
in both shapes, several seeds each.

    python benchmarks/splitcom_grid.py --data ../shared/data/e2e --runs /tmp/grid  # runs that are there are reused
    python benchmarks/splitcom_grid.py --paper                                     # the paper's grid, as commands

Trains configs/experiment/splitcom_small.yaml (the embedded model on E2E) once a method, shape and seed, scores
generated texts with `splitcom evaluate`, and writes benchmarks/results/splitcom_grid.{md,json} and the tables in
docs/splitcom.md. About 80 minutes on two cores.
"""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from splitcom_dist.cli import main as splitcom
from splitcom_dist.links import U_SHAPE, is_upward
from splitcom_dist.telemetry.summary import Summary, megabytes, read

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "experiment" / "splitcom_small.yaml"
DOCS = ROOT / "docs" / "splitcom.md"
RESULTS = ROOT / "benchmarks" / "results"
MARKS = "<!-- grid -->", "<!-- /grid -->"
SHAPES = ("standard", "u_shape")
CONTROLS = ("fixed", "bang_bang", "ddpg")
# Thresholds of the small experiment; found on seed 0 and then left alone.
THETAS = {
    "standard": {"codec.up_activation.theta": 0.955},
    "u_shape": {
        "codec.up_activation.theta": 0.98,
        "codec.down_activation.theta": 0.98,
        "codec.up_gradient.theta": 0.98,
        "codec.down_gradient.theta": 0.95,
    },
}
BOUNDS = {
    "standard": {"control.activation.low": 0.955, "control.activation.high": 0.98},
    "u_shape": {
        "control.activation.low": 0.97,
        "control.activation.high": 0.985,
        "control.gradient.low": 0.95,
        "control.gradient.high": 0.985,
    },
}


@dataclass(frozen=True)
class Method:
    name: str
    codecs: tuple[str, str]  # in the standard shape and in the U-shape
    control: str = "fixed"

    def overrides(self, shape: str) -> list[str]:
        """The presets; the paper's grid leaves it at these."""
        control = [f"control={self.control}"] if self.control != "fixed" else []
        return [f"shape={shape}", f"codec={self.codecs[SHAPES.index(shape)]}", *control]

    def thresholds(self, shape: str) -> list[str]:
        """Those of the small experiment."""
        values = THETAS[shape] if self.control == "fixed" else BOUNDS[shape]
        return [f"{key}={value}" for key, value in values.items()] if "SplitCom" in self.name else []


def methods() -> list[Method]:
    """SplitLoRA's wire, a head that never trains, and SplitCom: gates on the uplink, in the U-shape on all links."""
    plain = [
        Method(name, (codec, codec))
        for name, codec in (("SplitLoRA", "fp16"), ("SplitLoRA INT8", "int8"), ("frozen", "frozen"))
    ]
    gated = [
        Method(
            f"SplitCom {control.replace('_', '-')}{' INT8' if bits else ''}",
            (f"splitcom{bits}", f"splitcom_all{bits}"),
            control,
        )
        for bits, control in itertools.product(("", "_int8"), CONTROLS)
    ]
    return [*plain, *gated, Method("SplitCom fixed INT8, rescaled", ("splitcom_rescaled", "splitcom_rescaled"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with E2E's train and valid files")
    parser.add_argument("--runs", type=Path, help="where run directories are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--sources", type=int, default=60, help="sources to generate texts for")
    parser.add_argument("--only", nargs="*", help="methods whose names hold one of these words")
    parser.add_argument("--paper", action="store_true", help="print the commands of the paper's grid and end")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    if options.paper:
        print("\n".join(paper_commands()))
        return
    if not options.data or not options.runs:
        parser.error("--data and --runs are needed to train")
    chosen = [each for each in methods() if not options.only or any(word in each.name for word in options.only)]
    jobs = list(itertools.product(options.seeds, SHAPES, chosen))
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(job[0], job[1], job[2], options), jobs))
    scores = {job: evaluate(*job, options) for job in jobs}
    summaries = {job: read(folder(*job, options) / "summary.json") for job in jobs}
    text = tables(chosen, options.seeds, summaries, scores)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "splitcom_grid.md").write_text(text)
    if DOCS.is_file() and not options.only:
        before, _, rest = DOCS.read_text().partition(MARKS[0])
        DOCS.write_text(before + MARKS[0] + "\n\n" + text + "\n" + MARKS[1] + rest.partition(MARKS[1])[2])
    rows = [
        {
            "seed": seed,
            "shape": shape,
            "method": method.name,
            **figures(summaries[seed, shape, method]),
        }
        | scores[seed, shape, method]
        for seed, shape, method in jobs
    ]
    (RESULTS / "splitcom_grid.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def paper_commands() -> list[str]:
    """One command for every cell of the paper's grid; `--dry-run` behind one shows what it would send."""
    return [
        f"splitcom train configs/experiment/splitcom_{model}.yaml data={data} {' '.join(method.overrides(shape))}"
        for model, data, shape in itertools.product(("gpt2", "gpt2_xl"), ("e2e", "dart", "webnlg"), SHAPES)
        for method in methods()
        if "rescaled" not in method.name
    ]


def folder(seed: int, shape: str, method: Method, options: argparse.Namespace) -> Path:
    runs: Path = options.runs
    return runs / f"{shape}-{method.name.replace(' ', '_').replace(',', '')}-{seed}"


def train(seed: int, shape: str, method: Method, options: argparse.Namespace) -> None:
    out = folder(seed, shape, method, options)
    if (out / "summary.json").is_file():
        return
    command = [sys.executable, "-m", "splitcom_dist", "train", str(CONFIG), f"data.path={options.data}"]
    command += [f"train.seed={seed}", *method.overrides(shape), *method.thresholds(shape), *options.overrides]
    command.append("telemetry.progress=false")
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    print(f"{out.name}: perplexity {read(out / 'summary.json').ppl:.2f}", file=sys.stderr, flush=True)


def evaluate(seed: int, shape: str, method: Method, options: argparse.Namespace) -> dict[str, float]:
    """Scores of greedy texts; kept beside the run."""
    file = folder(seed, shape, method, options) / "evaluation.json"
    if not file.is_file():
        splitcom(["evaluate", str(file.parent), "--limit", str(options.sources), "--batch-size", "32"])
    found = json.loads(file.read_text())
    return {name: found[name] for name in ("bleu", "nist", "meteor", "rouge_l", "cider")}


def figures(summary: Summary) -> dict[str, object]:
    links = {
        name: {"wire": counts["wire_bytes"], "padded": counts["raw_padded_bytes"], "real": counts["raw_real_bytes"]}
        for name, counts in summary.links.items()
    }
    return {"ppl": summary.ppl, "seconds": summary.seconds, "wire": summary.wire_bytes, "links": links}


def tables(
    chosen: Sequence[Method],
    seeds: Sequence[int],
    summaries: dict[tuple[int, str, Method], Summary],
    scores: dict[tuple[int, str, Method], dict[str, float]],
) -> str:
    """Markdown: quality and bytes by method, one table a shape, then the bytes of each link."""
    first = next(iter(summaries.values()))
    lines = [setting(first, seeds), ""]
    for shape in SHAPES:
        lines += [
            f"### {'Standard shape' if shape == 'standard' else 'U-shape'}",
            "",
            "| method | perplexity | to SplitLoRA | BLEU | uplink, padded / real | all traffic, padded / real |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for method in chosen:
            runs = [summaries[seed, shape, method] for seed in seeds]
            base = [summaries[seed, shape, chosen[0]] for seed in seeds]
            ratios = [100 * (run.ppl / other.ppl - 1) for run, other in zip(runs, base, strict=True)]
            bleu = [scores[seed, shape, method]["bleu"] for seed in seeds]
            up = [link for link in runs[0].links if is_upward(link)]
            cells = [method.name, spread([run.ppl for run in runs], ".2f"), spread(ratios, "+.1f") + " %"]
            cells += [spread(bleu, ".1f"), against(runs, up), against(runs, None)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["### Bytes of each link", ""]
    lines += [f"| shape | method | {' | '.join(U_SHAPE)} | adapters |", "|---|---|" + "---:|" * 5]
    for shape, method in itertools.product(SHAPES, chosen):
        runs = [summaries[seed, shape, method] for seed in seeds]
        cells = [shape.replace("_", "-"), method.name]
        cells += [link_cell(runs, link) for link in U_SHAPE]
        cells.append(megabytes(round(statistics.mean(run.adapter_bytes for run in runs))))
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "sacrebleu"))
    lines += [
        "",
        f"Mean and standard deviation over seeds {', '.join(map(str, seeds))}; {versions}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


def setting(summary: Summary, seeds: Sequence[int]) -> str:
    data, steps, lora = (summary.config[group] for group in ("data", "train", "lora"))
    return (
        f"Embedded model (6 blocks of 192), {data['name'].upper()}, {data['train_samples']} training and "
        f"{data['validation_samples']} validation samples, {summary.config['fed']['clients']} clients, cut after "
        f"{summary.config['model']['cut_layer']} blocks, LoRA r {lora['rank']}, alpha {lora['alpha']:g}, "
        f"{steps['epochs']} epochs of batch {steps['batch_size']}, lr {steps['lr']:g}; the padded baseline pads to "
        f"{data['max_length']}. {len(seeds)} seeds. Bytes are all that crossed, against what FP16 would be."
    )


def spread(values: Sequence[float], form: str) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form.lstrip('+')}}"


def against(runs: Sequence[Summary], links: Sequence[str] | None) -> str:
    """Mean change to both baselines: of some links, or of everything, adapters and verdicts included."""
    parts = []
    for baseline in ("raw_padded_bytes", "raw_real_bytes"):
        changes = []
        for run in runs:
            names = run.links if links is None else links
            wire = run.wire_bytes if links is None else sum(run.links[name]["wire_bytes"] for name in names)
            changes.append(100 * (wire / sum(run.links[name][baseline] for name in names) - 1))
        parts.append(f"{statistics.mean(changes):+.2f} %")
    return " / ".join(parts)


def link_cell(runs: Sequence[Summary], link: str) -> str:
    if link not in runs[0].links:
        return "-"
    return (
        f"{megabytes(round(statistics.mean(run.links[link]['wire_bytes'] for run in runs)))} ({against(runs, [link])})"
    )


if __name__ == "__main__":
    main()
