"""Perplexity over target tokens, with padding inside the forward pass only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.data.batching import collate
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.loss import token_loss
from splitcom_dist.models.split import forward_blocks


@dataclass(frozen=True)
class Perplexity:
    loss: float  # nats a target token
    samples: int
    targets: int  # target tokens

    @property
    def ppl(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond that a float overflows


@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    samples: Sequence[Sample],
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> Perplexity:
    """Mean negative log-likelihood of the targets under a whole model, dropout off. `after_batch` shows progress."""
    model.eval()
    total, count = 0.0, 0
    ordered = sorted(samples, key=lambda sample: len(sample.tokens))  # alike lengths side by side: little padding
    for start in range(0, len(ordered), batch_size):
        batch = collate(ordered[start : start + batch_size], model.device)
        hidden = to_ragged(forward_blocks(model, input_ids=batch.input_ids), batch.lengths)
        total += float(token_loss(model, hidden, batch.lengths, batch.targets))
        count += sum(map(len, batch.targets))
        after_batch()
    model.train()
    return Perplexity(total / count, len(samples), count)
