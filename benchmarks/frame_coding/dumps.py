"""What crosses the cut: one process trains both ends, and every batch's activations and gradients are kept."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from splitcom_dist.codec.prefix import PrefixTree
from splitcom_dist.config.schema import LoraConfig, TrainConfig
from splitcom_dist.data.batching import collate, epoch_order
from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.data.tokens import tokenize
from splitcom_dist.models.lora import adapter_parameters, attach_lora
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import body, forward_blocks, head, load_part
from splitcom_dist.training import AdapterOptimizer

SETTINGS = {"tiny": (2, 2.5e-3, 96, 10), "smollm2": (3, 5e-4, 64, 5)}  # cut layer, lr, samples, epochs
SEED, BATCH, MAX_LENGTH = 0, 8, 128


@dataclass(frozen=True)
class Packet:
    """One batch at the cut: T real positions of width d; their keys with sharing (prefix) and without (position)."""

    epoch: int
    prefix: Tensor
    position: Tensor
    tokens: Tensor
    activation: Tensor
    gradient: Tensor


def of_few_sources(data: str, count: int) -> list[Example]:
    """All rows of as few sources as give `count` of them, so that prefixes are shared as in the full set."""
    rows = defaultdict(list)
    for example in load("e2e", data, "train"):
        rows[example.source].append(example)
    groups = list(rows.values())
    order = np.random.default_rng(SEED).permutation(len(groups))
    return [example for index in order[:count] for example in groups[index]][:count]


def dump(name: str, data: str) -> list[Packet]:
    """Train head and body as client and server would with codec none, and keep what they would exchange."""
    cut_layer, lr, count, epochs = SETTINGS[name]
    source, lora = find_model(name), LoraConfig()
    parts = (head(cut_layer), body(cut_layer, source.block_count))
    client, server = (attach_lora(load_part(source, part, torch.float32), lora, SEED) for part in parts)
    examples = of_few_sources(data, count)
    samples = tokenize(examples, source.tokenizer(), MAX_LENGTH, "truncate").samples
    paths = PrefixTree().paths([sample.id for sample in samples], [sample.tokens for sample in samples])
    starts = np.cumsum([0, *map(len, paths)])
    optimizers = [
        AdapterOptimizer(
            list(adapter_parameters(part).values()), TrainConfig(lr=lr), epochs * math.ceil(len(samples) / BATCH)
        )
        for part in (client, server)
    ]
    packets = []
    for epoch in range(epochs):
        for chosen in epoch_order(len(samples), BATCH, SEED, 0, epoch):
            batch = collate([samples[index] for index in chosen])
            lengths = batch.lengths.tolist()
            activation = forward_blocks(client, input_ids=batch.input_ids)
            received = activation.detach().requires_grad_()
            hidden = forward_blocks(server, activation=received)
            ends = zip(hidden, lengths, batch.targets, strict=True)
            predicted = torch.cat([row[length - len(targets) : length] for row, length, targets in ends])
            functional.cross_entropy(server.lm_head(predicted), torch.cat(batch.targets)).backward()
            assert received.grad is not None
            activation.backward(received.grad)
            for optimizer in optimizers:
                optimizer.step()
            packets.append(
                Packet(
                    epoch,
                    torch.from_numpy(np.concatenate([paths[index] for index in chosen])),
                    torch.from_numpy(np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])),
                    real(batch.input_ids, lengths),
                    real(received.detach(), lengths),
                    real(received.grad, lengths),
                )
            )
    return packets


def real(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)]).clone()


def first_rows(keys: Tensor, seen: set[int]) -> Tensor:
    """Rows at which a key not in `seen` comes first; `seen` learns them."""
    rows = []
    for row, key in enumerate(keys.tolist()):
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.long)


def visits(packets: Iterable[Packet], epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and activations of an epoch's packets, every prefix once."""
    seen: set[int] = set()
    found = []
    for packet in (packet for packet in packets if packet.epoch == epoch):
        rows = first_rows(packet.prefix, seen)
        if len(rows):
            found.append((packet.prefix[rows], packet.activation[rows]))
    return found
