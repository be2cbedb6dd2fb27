"""Client adapters through the aggregator, who hands every client's factors on to all: they average products unreduced.

FLoRA (arXiv 2409.05976). Every rank stacks the same factors in the order of clients. A rank is not sent its own.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.aggregate.factors import Factors
from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.aggregate.stack import stack
from splitcom_dist.comm.factors import receive_factors, send_factors
from splitcom_dist.comm.failures import naming
from splitcom_dist.layout import Layout


class Stacked(NamedTuple):
    """What an averaging brings to one rank."""

    factors: list[Factors]  # of every adapted weight, those of all clients that have trained; none without a weight
    weight: float  # of all clients
    size: int  # bytes that this rank handed over


class StackSpoke:
    """A client rank's end."""

    def __init__(self, group: dist.ProcessGroup, layout: Layout, rank: int, ranks: Ranks) -> None:
        self._group = group
        self._hub = layout.aggregator_rank
        self._everybody = layout.clients
        self._clients = layout.clients_of(rank)
        self._ranks = ranks

    def exchange(self, weights: Mapping[int, int], adapter_of: Callable[[int], Tensor], step: int) -> Stacked:
        """Give the adapters (n,) of those of our clients that have a weight, and take those of all others."""
        given = {number: self._ranks.packed(adapter_of(number), number) for number in sorted(weights)}
        everyones = torch.zeros(self._everybody, dtype=torch.int64)
        with naming("the aggregator", [self._hub], f"adapter averaging after step {step}"):
            size = send_factors(self._group, self._hub, self._clients, weights, given.__getitem__)
            dist.recv(everyones, self._hub, self._group)
            others = [number for number in everyones.nonzero().flatten().tolist() if number not in given]
            sizes = [self._ranks.elements(number) for number in others]
            if others:
                vector = torch.empty(sum(sizes))
                dist.recv(vector, self._hub, self._group)
                given |= dict(zip(others, vector.split(sizes), strict=True))
        return _stacked(given, everyones, self._ranks, size)


class StackHub:
    """The aggregator's end."""

    def __init__(self, group: dist.ProcessGroup, layout: Layout, ranks: Ranks) -> None:
        self._group = group
        self._layout = layout
        self._ranks = ranks

    def exchange(self, step: int) -> Stacked:
        """Hand on to every client rank what the others' clients give."""
        given, weights = receive_factors(self._group, self._layout, self._ranks, step)
        everyones = torch.tensor([weights.get(number, 0) for number in range(self._layout.clients)])
        size = 0
        for rank in self._layout.client_ranks:
            others = [given[number] for number in sorted(given) if self._layout.rank_of(number) != rank]
            with naming(self._layout.name_of(rank), [rank], f"adapter averaging after step {step}"):
                dist.send(everyones, rank, self._group)
                if others:
                    dist.send(torch.cat(others), rank, self._group)
            size += everyones.nbytes + sum(vector.nbytes for vector in others)
        return _stacked(given, everyones, self._ranks, size)


def _stacked(given: Mapping[int, Tensor], everyones: Tensor, ranks: Ranks, size: int) -> Stacked:
    numbers, weights = sorted(given), everyones.tolist()
    clients = [ranks.unpacked(given[number], number) for number in numbers]
    shares = [float(weights[number]) for number in numbers]
    return Stacked([stack(own, shares) for own in zip(*clients, strict=True)], float(sum(weights)), size)


def stacked_bytes(ranks: int, clients: int, elements: int) -> int:
    """What all ranks hand over in one averaging of so many logical clients, and elements of those that have trained:
    every client's once to the aggregator, and from there to the other client ranks."""
    return (1 + ranks) * 8 * clients + ranks * 4 * elements
