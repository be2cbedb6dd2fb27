"""SmolLM2-135M on a subset of E2E with two clients: SplitCom against SplitLoRA's wire and against a frozen head.

    python benchmarks/e2e_smollm2.py --data ../shared/data/e2e

Runs configs/experiment/e2e_smollm2_splitcom.yaml once a shape and codec and prints the table that the README shows;
also written to benchmarks/results/e2e_smollm2.md and .json. Needs the extra smollm2, about 40 minutes on two cores.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from splitcom_dist.telemetry.summary import Summary, change, megabytes, read

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "experiment" / "e2e_smollm2_splitcom.yaml"
RESULTS = ROOT / "benchmarks" / "results"
CELLS = (
    *(f"standard/{codec}" for codec in ("none", "splitcom", "splitcom_int8", "frozen")),
    *(f"u_shape/{codec}" for codec in ("none", "splitcom_all_int8", "frozen")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with E2E's train and valid files")
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="SHAPE/CODEC")
    parser.add_argument("--runs", type=Path, help="keep run directories here, and reuse the ones that are there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        summaries = {cell: run(cell, options.data, folder / cell, options.overrides) for cell in options.cells}
    text = table(summaries)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "e2e_smollm2.md").write_text(text)
    figures = {cell: {"ppl": s.ppl, "seconds": s.seconds, "links": s.links} for cell, s in summaries.items()}
    (RESULTS / "e2e_smollm2.json").write_text(json.dumps(figures, indent=1) + "\n")


def run(cell: str, data: str, out: Path, overrides: list[str]) -> Summary:
    """One run; its summary."""
    if not (out / "summary.json").is_file():
        shape, codec = cell.split("/")
        command = [sys.executable, "-m", "splitcom_dist", "train", str(CONFIG), f"data.path={data}"]
        subprocess.run([*command, f"shape={shape}", f"codec={codec}", *overrides, "--out", str(out)], check=True)
    return read(out / "summary.json")


def table(summaries: dict[str, Summary]) -> str:
    """Markdown: perplexity and bytes by codec, reductions against both FP16 baselines."""
    first = next(iter(summaries.values()))
    train, data, fed = first.config["train"], first.config["data"], first.config["fed"]
    lines = [
        f"SmolLM2-135M, E2E, {data['train_samples']} training and {data['validation_samples']} validation samples, "
        f"{fed['clients']} clients, cut after {first.config['model']['cut_layer']} of 30 blocks, LoRA r "
        f"{first.config['lora']['rank']} on q and v, {train['epochs']} epochs of batch {train['batch_size']}, "
        f"lr {train['lr']:g}, seed {train['seed']}; perplexity before training {first.untuned_ppl:.2f}.",
        "",
        "| shape | codec | perplexity | uplink | to FP16 padded / real | downlink | to FP16 padded / real | skipped |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for cell, summary in summaries.items():
        cells = [*cell.split("/"), f"{summary.ppl:.3f}"]
        for direction in ("up_", "down_"):
            links = [counts for name, counts in summary.links.items() if name.startswith(direction)]
            wire, padded, real = (
                sum(each[f"{kind}_bytes"] for each in links) for kind in ("wire", "raw_padded", "raw_real")
            )
            cells += [megabytes(wire), f"{change(wire, padded)} / {change(wire, real)}"]
        skipped, sent = (sum(counts[kind] for counts in summary.links.values()) for kind in ("S", "I"))
        lines.append(f"| {' | '.join([*cells, f'{100 * skipped / (skipped + sent):.1f} %'])} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    lines += [
        "",
        f"Every byte counted: headers, ids, labels, masks, first epoch. {versions}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
