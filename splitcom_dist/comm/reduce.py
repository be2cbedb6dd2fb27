"""Adapters as flat vectors between ranks: weighted averaging, and the server's to the aggregator.

In float32 here, as INT8 changes in compressed_mean.py; both have the same three ends.
"""

from typing import Protocol

import torch
from torch import Tensor

from splitcom_dist.comm.circle import Circle, Ring
from splitcom_dist.comm.compressed_mean import CompressedMean, DeltaReceiver, DeltaSender
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.state import Stateful, Stateless


class Averaging(Stateful, Protocol):
    """One rank's end of the averaging of client adapters."""

    def mean(self, vector: Tensor | None, weight: float, step: int) -> tuple[Tensor, float, int]:
        """Average the vectors (n,) of all ranks by their weights; None and 0 for a rank that only listens.

        Where nobody has a weight there is no mean to go on from.

        Returns the mean (n,), the total weight and the bytes this rank handed over.
        """
        ...


class Sending(Stateful, Protocol):
    def send(self, vector: Tensor, pair: GlooPair) -> int:
        """Send a vector (n,) whose length the receiver knows; returns its bytes."""
        ...


class Receiving(Stateful, Protocol):
    def receive(self, pair: GlooPair) -> Tensor:
        """The vector (n,) that the other end sends."""
        ...


def make_averaging(quantizer: str, start: Tensor, circle: Circle) -> Averaging:
    """`start` (n,) is the adapter before training, the same on every rank."""
    if quantizer == "none":
        return PlainMean(len(start), circle)
    assert isinstance(circle, Ring)
    return CompressedMean(start, circle.group)


def make_sending(quantizer: str, start: Tensor) -> Sending:
    return DeltaSender(start) if quantizer == "int8" else PlainEnd(len(start))


def make_receiving(quantizer: str, start: Tensor) -> Receiving:
    return DeltaReceiver(start) if quantizer == "int8" else PlainEnd(len(start))


class PlainMean(Stateless):
    """One float32 sum over vectors (length,) and their weight."""

    def __init__(self, length: int, circle: Circle) -> None:
        self._length = length
        self._circle = circle

    def mean(self, vector: Tensor | None, weight: float, step: int) -> tuple[Tensor, float, int]:
        own = torch.zeros(self._length) if vector is None else vector * weight
        buffer = torch.cat([own, torch.tensor([weight])])
        size = self._circle.sum(buffer, step)
        total = float(buffer[-1])
        return buffer[:-1] / (total or 1.0), total, size


class PlainEnd(Stateless):
    """Either end of a stream of float32 vectors (length,)."""

    def __init__(self, length: int) -> None:
        self._length = length

    def send(self, vector: Tensor, pair: GlooPair) -> int:
        with naming(f"rank {pair.peer}", [pair.peer], "sending adapters"):
            pair.send(vector.contiguous())
        return vector.nbytes

    def receive(self, pair: GlooPair) -> Tensor:
        vector = torch.empty(self._length)
        with naming(f"rank {pair.peer}", [pair.peer], "receiving adapters"):
            pair.receive(vector)
        return vector
