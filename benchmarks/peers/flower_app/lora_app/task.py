"""Model, batches and loss, alike for clients and server."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def load_model(config: dict[str, Any]) -> Any:
    base = transformers.AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32)
    lora = peft.LoraConfig(
        r=config["rank"],
        lora_alpha=config["alpha"],
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(base, lora)


def read(config: dict[str, Any], name: str) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in Path(config["tokens"], f"{name}.jsonl").read_text().splitlines()]


def batches(rows: list[dict[str, list[int]]], size: int, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels (batch, longest); shuffled where there is a seed."""
    rows = list(rows) if seed is None else random.Random(seed).sample(rows, len(rows))
    for start in range(0, len(rows), size):
        texts = rows[start : start + size]
        width = max(len(row["context"]) + len(row["completion"]) for row in texts) - 1
        inputs = torch.zeros(len(texts), width, dtype=torch.long)
        labels = torch.full((len(texts), width), IGNORED)
        for index, row in enumerate(texts):
            tokens, first = torch.tensor(row["context"] + row["completion"]), len(row["context"])
            inputs[index, : len(tokens) - 1] = tokens[:-1]
            labels[index, first - 1 : len(tokens) - 1] = tokens[first:]
        yield inputs, labels


def loss_of(model: Any, inputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
    logits = model(input_ids=inputs, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction=reduction)


def train(model: Any, config: dict[str, Any], client: int, number: int) -> int:
    """One epoch over a client's texts; how many there are."""
    rows = read(config, str(client))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config["lr"], weight_decay=0.0)
    for inputs, labels in batches(rows, config["batch"], number):
        loss_of(model, inputs, labels, "mean").backward()
        optimizer.step()
        optimizer.zero_grad()
    return len(rows)


def held_out_loss(model: Any, config: dict[str, Any]) -> float:
    """Nats a target token."""
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, labels in batches(read(config, "valid"), config["batch"], None):
            total += float(loss_of(model, inputs, labels, "sum"))
            count += int((labels != IGNORED).sum())
    return total / count
