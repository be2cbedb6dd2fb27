"""The limit of a split run: one process that trains the same batches with peft, with no cut, wire or log.

    python benchmarks/one_process.py [--warm-up 5] [--keep-memory] key=value ...

The settings are those of the split run. Every step takes a batch of each client, one after the other or, as the server
with roles.server_batching=merged, all in one pass, and one step of the optimizer on their gradients. Prints tokens
(input positions) a second, and seconds of CPU a token; neither the first steps count nor the last. A plain process
gives what it frees back to the system; with `--keep-memory` it keeps it, as ranks do.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import peft
import torch
import transformers
from torch.nn import functional

from splitcom_dist.codec.ragged import target_rows, to_ragged
from splitcom_dist.config.files import load_config
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.heap import keep_freed_memory
from splitcom_dist.layout import layout_for
from splitcom_dist.models.lora import peft_config
from splitcom_dist.models.sources import find_model
from splitcom_dist.schedule import schedule_for
from splitcom_dist.shards import training_shards
from splitcom_dist.training import AdapterOptimizer


@dataclass(frozen=True)
class Pace:
    tokens_per_second: float
    cpu_per_token: float  # seconds, over all threads and processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="key=value")
    parser.add_argument("--warm-up", type=int, default=5, help="steps that do not count")
    parser.add_argument("--keep-memory", action="store_true")
    options = parser.parse_args()
    if options.keep_memory:
        keep_freed_memory()
    print(json.dumps(asdict(train(options.settings, options.warm_up))))


def one_process(settings: Sequence[str], warm_up: int, keep_memory: bool = False) -> Pace:
    """`train` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), f"--warm-up={warm_up}", *settings]
    command += ["--keep-memory"] if keep_memory else []
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Pace(**json.loads(told.splitlines()[-1]))


def train(settings: Sequence[str], warm_up: int) -> Pace:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = load_config([], list(settings))
    source = find_model(config.model.name)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        source.folder, config=source.config, dtype=getattr(torch, config.model.dtype)
    )
    model = peft.get_peft_model(base, peft_config(source.config.model_type, config.lora, ""))
    shards = training_shards(config, source.tokenizer(), range(config.fed.clients))
    schedule = schedule_for(config, layout_for(config), tuple(len(shards[client]) for client in sorted(shards)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdapterOptimizer(trained, config.train, schedule.total_steps)
    tokens, started, cpu = 0, 0.0, 0.0
    for step in range(schedule.total_steps - 1):
        if step == warm_up:
            tokens, started, cpu = 0, time.perf_counter(), time.process_time()
        targets = 0
        clients = schedule.active_clients(step)
        passes = [schedule.batch(shards[client], client, step, config.train.seed) for client in clients]
        if config.roles.server_batching == "merged":
            passes = [list(itertools.chain(*passes))]
        for samples in passes:
            batch = collate(samples)
            loss_of(model, batch).backward()
            targets += sum(map(len, batch.targets))
            tokens += int(batch.lengths.sum())
        optimizer.step_on_mean(targets)
    return Pace(tokens / (time.perf_counter() - started), (time.process_time() - cpu) / tokens)


def loss_of(model: peft.PeftModel, batch: Batch) -> torch.Tensor:
    """Summed over the targets; the LM head sees only rows that predict one."""
    rows = target_rows(batch.lengths, torch.tensor([len(target) for target in batch.targets]))
    decoder = model.base_model.model
    hidden = decoder.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    logits = decoder.lm_head(to_ragged(hidden, batch.lengths)[rows])
    return functional.cross_entropy(logits.float(), torch.cat(batch.targets), reduction="sum")


if __name__ == "__main__":
    main()
