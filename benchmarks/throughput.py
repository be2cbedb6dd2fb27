"""Tokens a second of a split run (1 client, 1 server) against one process with peft: same cores, same batches.

    python benchmarks/throughput.py [--model tiny] [--rounds 5]

Every round times the three in turn; printed are the medians and their ratios, and the share of a step that encoding
and decoding take. The one process computes what the split run computes (LM head at target positions only); a second
column gives peft used in the ordinary way, with logits at every position. Also written to benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from one_process import one_process

from splitcom_dist.telemetry.hdf5 import read

ROOT = Path(__file__).parent.parent
WARM_UP = 5  # steps that no figure counts


def settings(model: str) -> list[str]:
    return [
        f"model.name={model}",
        "model.cut_layer=2",
        "data.train_samples=320",
        "data.validation_samples=8",
        "roles.client_ranks=1",
        "fed.clients=1",
        "fed.every=10",
        "train.epochs=2",
        "telemetry.progress=false",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in ("one process", "peft as usual", "none", "splitcom")}
    shares: dict[str, list[float]] = {"none": [], "splitcom": []}
    for _ in range(options.rounds):
        for name, full_logits in (("one process", False), ("peft as usual", True)):
            rates[name].append(one_process(settings(options.model), WARM_UP, full_logits).tokens_per_second)
        for codec in shares:
            rate, share = split_run(options.model, codec)
            rates[codec].append(rate)
            shares[codec].append(share)
    report(options.model, rates, shares)


def split_run(model: str, codec: str) -> tuple[float, float]:
    """One split run: tokens a second after the warm-up, and the share of the steps spent in the codec."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "splitcom_dist", "train", *settings(model), f"codec={codec}"]
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
        train, traffic = read(out / "run.h5", "train"), read(out / "run.h5", "traffic")
    steps = train[(train["client"] == -1) & (train["step"] >= WARM_UP)]
    seconds = float((steps["seconds"] + steps["wait"]).sum())
    packets = traffic[traffic["step"] >= WARM_UP]
    coding = float(np.nansum(packets["t_encode"]) + np.nansum(packets["t_decode"]))
    return float(steps["tokens"].sum()) / seconds, coding / seconds


def report(model: str, rates: dict[str, list[float]], shares: dict[str, list[float]]) -> None:
    limit, usual = (statistics.median(rates[name]) for name in ("one process", "peft as usual"))
    cores, rounds = len(os.sched_getaffinity(0)), len(rates["none"])
    lines = [
        f"{model}, cut after 2 blocks, batch 8, {cores} cores; medians of {rounds} rounds.",
        "",
        "| | tokens/s | of one process | of peft as usual | encode + decode |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in rates.items():
        rate = statistics.median(values)
        share = f"{100 * statistics.median(shares[name]):.1f} %" if name in shares else "-"
        label = f"split, codec {name}" if name in shares else name
        lines.append(f"| {label} | {rate:,.0f} | {rate / limit:.2f} | {rate / usual:.2f} | {share} |")
    text = "\n".join([*lines, ""])
    print(text)
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / f"throughput_{Path(model).name}.md").write_text(text)
    figures = {"tokens_per_second": rates, "coding_share": shares}
    (results / f"throughput_{Path(model).name}.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
