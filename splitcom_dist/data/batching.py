"""The order of an epoch, and samples as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from splitcom_dist.data.tokens import Sample
from splitcom_dist.devices import HOST, to_device

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples; the targets of sample i belong to its last `len(targets[i])` input positions.

    `lengths` counts input positions: one fewer than tokens, as the last token is only ever a label. Only `input_ids`
    may be on a device: lengths decide shapes, and targets are packed on the host.
    """

    samples: list[int]  # B distinct ids
    input_ids: torch.Tensor  # (B, Lmax) int64, right-padded with 0
    lengths: torch.Tensor  # (B,) int64
    targets: list[torch.Tensor]  # B tensors of int64 token ids

    @property
    def tokens(self) -> int:
        """Input positions."""
        return int(self.lengths.sum())

    @property
    def target_count(self) -> int:
        return sum(map(len, self.targets))


def epoch_order(count: int, batch_size: int, seed: int, client: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch as arrays of indices below `count`; the last may be short.

    A pure function of its arguments, so that a resumed run sees the batches it would have seen.
    """
    order = _permutation(count, seed, client, epoch)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def epoch_batch(count: int, batch_size: int, seed: int, client: int, epoch: int, number: int) -> np.ndarray:
    """One batch of `epoch_order`; what it takes does not grow with `count`, but for the first of an epoch."""
    return _permutation(count, seed, client, epoch)[number * batch_size : (number + 1) * batch_size]


@lru_cache(maxsize=16)  # every step asks for the epochs of a rank's clients; an old one of a large shard is megabytes
def _permutation(count: int, seed: int, client: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng(np.random.SeedSequence((seed, client, epoch))).permutation(count)
    order.flags.writeable = False  # handed out without a copy
    return order


def in_micro_batches(batch: Sequence[T], count: int) -> list[Sequence[T]]:
    """A batch in order, cut into so many parts, or as many as it has samples; sizes differ by at most one."""
    count = min(count, len(batch))
    return [batch[start:stop] for start, stop in pairwise(len(batch) * part // count for part in range(count + 1))]


def collate(samples: Sequence[Sample], device: torch.device = HOST) -> Batch:
    """One batch of at least one sample, for a model on `device`."""
    lengths = [len(sample.tokens) - 1 for sample in samples]
    input_ids = np.zeros((len(samples), max(lengths)), np.int64)
    for row, sample, length in zip(input_ids, samples, lengths, strict=True):
        row[:length] = sample.tokens[:-1]
    return Batch(
        samples=[sample.id for sample in samples],
        input_ids=to_device(torch.from_numpy(input_ids), device),
        lengths=torch.tensor(lengths),
        targets=[torch.from_numpy(sample.tokens[sample.target_start :].astype(np.int64)) for sample in samples],
    )
