"""LoRA fine-tuning in two pipeline stages with torch.distributed.pipelining over Gloo; run by peers_pipeline.py.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python benchmarks/peers/pipeline.py --model ... --tokens ...

Stages exchange tensors of one shape only, so every text is padded to the longest.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn import functional

IGNORED = -100


class FirstStage(nn.Module):
    def __init__(self, model: Any, cut: int) -> None:
        super().__init__()
        body = model.transformer
        self.tokens, self.positions, self.blocks = body.wte, body.wpe, body.h[:cut]

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class LastStage(nn.Module):
    def __init__(self, model: Any, cut: int) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = model.transformer.h[cut:], model.transformer.ln_f, model.lm_head

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def read(path: Path, width: int) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of every text, both so wide."""
    rows = []
    for row in map(json.loads, path.read_text().splitlines()):
        tokens, first = row["context"] + row["completion"], len(row["context"])
        labels = [IGNORED] * (first - 1) + tokens[first:]
        padding = width - len(labels)
        rows.append((tokens[:-1] + [0] * padding, labels + [IGNORED] * padding))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--tokens", "--marks"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--cut", "--width", "--epochs", "--batch", "--micro-batches", "--rank", "--alpha"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    options = parser.parse_args()
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    lora = peft.LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=["c_attn"], fan_in_fan_out=True)
    model = peft.inject_adapter_in_model(lora, model)
    part = LastStage(model, options.cut) if rank else FirstStage(model, options.cut)
    del model
    stage = PipelineStage(part, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, options.micro_batches, loss_fn=loss_of)
    trained = [parameter for name, parameter in part.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=0.0)
    clients = sorted(path for path in options.tokens.glob("*.jsonl") if path.stem != "valid")
    texts = [row for path in clients for row in read(path, options.width)]
    marks: list[dict[str, float]] = []
    for epoch in range(options.epochs):
        order = random.Random(epoch).sample(texts, len(texts))
        for start in range(0, len(order), options.batch):
            run(schedule.step, rank, order[start : start + options.batch])
            optimizer.step()
            optimizer.zero_grad()
        dist.barrier()
        marks.append({"round": epoch + 1, "time": time.time()})
    losses: list[Tensor] = []
    held_out = read(options.tokens / "valid.jsonl", options.width)
    with torch.no_grad():
        for start in range(0, len(held_out) - options.batch + 1, options.batch):
            losses += run(schedule.eval, rank, held_out[start : start + options.batch])
    if rank == 1:
        marks.append({"loss": float(torch.stack(losses).mean())})
        options.marks.write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    dist.barrier()
    dist.destroy_process_group()


def run(step: Any, rank: int, rows: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    """One batch through both stages; the losses of its micro-batches, on the last."""
    losses: list[Tensor] = []
    inputs, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
    if rank == 0:
        step(inputs, return_outputs=False)
    else:
        step(target=labels, losses=losses, return_outputs=False)
    return losses


if __name__ == "__main__":
    main()
