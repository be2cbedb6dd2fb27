"""SmolLM2-135M on a subset of E2E with two clients: SplitCom against SplitLoRA's wire and against a frozen client.

    python benchmarks/e2e_smollm2.py --data ../shared/data/e2e

Runs configs/experiment/e2e_smollm2_splitcom.yaml once a codec and prints the table that the README shows; also
written to benchmarks/results/e2e_smollm2.md and .json. Needs the extra smollm2, about 20 minutes on two cores.
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
CODECS = ("none", "fp16", "splitcom", "splitcom_int8", "frozen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with E2E's train and valid files")
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    parser.add_argument("--runs", type=Path, help="keep run directories here, and reuse the ones that are there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        summaries = {codec: run(codec, options.data, folder / codec, options.overrides) for codec in options.codecs}
    text = table(summaries)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "e2e_smollm2.md").write_text(text)
    figures = {codec: {"ppl": s.ppl, "seconds": s.seconds, "links": s.links} for codec, s in summaries.items()}
    (RESULTS / "e2e_smollm2.json").write_text(json.dumps(figures, indent=1) + "\n")


def run(codec: str, data: str, out: Path, overrides: list[str]) -> Summary:
    """One run; its summary."""
    if not (out / "summary.json").is_file():
        command = [sys.executable, "-m", "splitcom_dist", "train", str(CONFIG), f"data.path={data}", f"codec={codec}"]
        subprocess.run([*command, *overrides, "--out", str(out)], check=True)
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
        "| codec | perplexity | uplink | to FP16 padded / real | downlink | to FP16 padded / real | skipped |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for codec, summary in summaries.items():
        up, down = summary.links["up_activation"], summary.links["down_gradient"]
        skipped = up["S"] / (up["I"] + up["P"] + up["S"])
        cells = [codec, f"{summary.ppl:.3f}"]
        for link in (up, down):
            padded, real = (change(link["wire_bytes"], link[f"raw_{kind}_bytes"]) for kind in ("padded", "real"))
            cells += [megabytes(link["wire_bytes"]), f"{padded} / {real}"]
        lines.append(f"| {' | '.join([*cells, f'{100 * skipped:.1f} %'])} |")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    lines += [
        "",
        f"Every byte counted: headers, ids, labels, masks, first epoch. {versions}, {platform.machine()}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
