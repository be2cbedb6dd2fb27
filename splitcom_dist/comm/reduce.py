"""Adapters as flat vectors between ranks: weighted averaging, and the server's to the aggregator.

In float32 here, as INT8 changes in compressed_mean.py; both have the same three ends.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.compressed_mean import CompressedMean, DeltaReceiver, DeltaSender
from splitcom_dist.comm.failures import naming
from splitcom_dist.state import Stateful, Stateless


class Averaging(Stateful, Protocol):
    """One rank's end of the averaging of client adapters."""

    def mean(self, vector: Tensor | None, weight: float, group: dist.ProcessGroup) -> tuple[Tensor, float, int]:
        """Average the vectors (n,) of a group by their weights; None and 0 for a rank that only listens.

        Returns the mean (n,), the total weight and the bytes this rank handed over.
        """
        ...


class Sending(Stateful, Protocol):
    def send(self, vector: Tensor, receiver: int, group: dist.ProcessGroup) -> int:
        """Send a vector (n,) whose length the receiver knows; returns its bytes."""
        ...


class Receiving(Stateful, Protocol):
    def receive(self, sender: int, group: dist.ProcessGroup) -> Tensor:
        """The vector (n,) that `sender` sends."""
        ...


def make_averaging(quantizer: str, start: Tensor) -> Averaging:
    """`start` (n,) is the adapter before training, the same on every rank."""
    return CompressedMean(start) if quantizer == "int8" else PlainMean(len(start))


def make_sending(quantizer: str, start: Tensor) -> Sending:
    return DeltaSender(start) if quantizer == "int8" else PlainEnd(len(start))


def make_receiving(quantizer: str, start: Tensor) -> Receiving:
    return DeltaReceiver(start) if quantizer == "int8" else PlainEnd(len(start))


class PlainMean(Stateless):
    """One float32 all-reduce over vectors (length,) and their weight."""

    def __init__(self, length: int) -> None:
        self._length = length

    def mean(self, vector: Tensor | None, weight: float, group: dist.ProcessGroup) -> tuple[Tensor, float, int]:
        own = torch.zeros(self._length) if vector is None else vector * weight
        buffer = torch.cat([own, torch.tensor([weight])])
        with naming("a rank", dist.get_process_group_ranks(group), "adapter averaging"):
            dist.all_reduce(buffer, group=group)
        total = float(buffer[-1])
        return buffer[:-1] / total, total, buffer.nbytes


class PlainEnd(Stateless):
    """Either end of a stream of float32 vectors (length,)."""

    def __init__(self, length: int) -> None:
        self._length = length

    def send(self, vector: Tensor, receiver: int, group: dist.ProcessGroup) -> int:
        with naming(f"rank {receiver}", [receiver], "sending adapters"):
            dist.send(vector.contiguous(), receiver, group=group)
        return vector.nbytes

    def receive(self, sender: int, group: dist.ProcessGroup) -> Tensor:
        vector = torch.empty(self._length)
        with naming(f"rank {sender}", [sender], "receiving adapters"):
            dist.recv(vector, sender, group=group)
        return vector
