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
import time
from pathlib import Path

import numpy as np

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
    parser.add_argument("--one-process", choices=["targets", "full"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_process:
        print(one_process(options.model, full_logits=options.one_process == "full"))
        return
    rates: dict[str, list[float]] = {name: [] for name in ("one process", "peft as usual", "none", "splitcom")}
    shares: dict[str, list[float]] = {"none": [], "splitcom": []}
    for _ in range(options.rounds):
        rates["one process"].append(measure_one_process(options.model, "targets"))
        rates["peft as usual"].append(measure_one_process(options.model, "full"))
        for codec in shares:
            rate, share = split_run(options.model, codec)
            rates[codec].append(rate)
            shares[codec].append(share)
    report(options.model, rates, shares)


def one_process(model_name: str, full_logits: bool) -> float:
    """Train the same batches in this process; tokens (input positions) a second after the warm-up."""
    import peft
    import torch
    import transformers
    from torch.nn import functional

    from splitcom_dist.codec.ragged import target_rows, to_ragged
    from splitcom_dist.config.files import load_config
    from splitcom_dist.data.batching import collate
    from splitcom_dist.layout import layout_for
    from splitcom_dist.models.lora import peft_config
    from splitcom_dist.models.sources import find_model
    from splitcom_dist.schedule import Schedule
    from splitcom_dist.shards import training_shards
    from splitcom_dist.training import AdapterOptimizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = load_config([], settings(model_name))
    source = find_model(model_name)
    base = transformers.AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    model = peft.get_peft_model(base, peft_config(source.config.model_type, config.lora, ""))
    samples = training_shards(config, source.tokenizer(), [0])[0]
    schedule = Schedule(layout_for(config), (len(samples),), config.train.batch_size, config.train.epochs, 10, 1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdapterOptimizer(trained, config.train, schedule.total_steps)
    tokens, started = 0, 0.0
    for step in range(schedule.total_steps):
        if step == WARM_UP:
            tokens, started = 0, time.perf_counter()
        batch = collate(schedule.batch(samples, 0, step, config.train.seed))
        targets = torch.cat(batch.targets)
        rows = target_rows(batch.lengths, torch.tensor([len(target) for target in batch.targets]))
        if full_logits:
            logits = to_ragged(model(input_ids=batch.input_ids, use_cache=False).logits, batch.lengths)[rows]
        else:
            decoder = model.base_model.model
            hidden = decoder.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            logits = decoder.lm_head(to_ragged(hidden, batch.lengths)[rows])
        functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        tokens += int(batch.lengths.sum())
    return tokens / (time.perf_counter() - started)


def measure_one_process(model: str, kind: str) -> float:
    command = [sys.executable, __file__, "--model", model, "--one-process", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def split_run(model: str, codec: str) -> tuple[float, float]:
    """One split run: tokens a second after the warm-up, and the share of the steps spent in the codec."""
    from splitcom_dist.telemetry.hdf5 import read

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
