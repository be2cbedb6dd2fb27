"""Client adapters through the aggregator, who alone sees the factors of each client and averages their products.

A sum cannot tell them: the mean of products is not that of flat vectors. Every client's factors cross at its own rank.
"""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.aggregate.factors import Factors, joined, split
from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.aggregate.svd import filled, svd
from splitcom_dist.comm.failures import naming
from splitcom_dist.layout import Layout


class FactorSpoke:
    """A client rank's end."""

    def __init__(self, group: dist.ProcessGroup, layout: Layout, rank: int, ranks: Ranks) -> None:
        self._group = group
        self._hub = layout.aggregator_rank
        self._clients = layout.clients_of(rank)
        self._ranks = ranks

    def mean(
        self, weights: Mapping[int, int], adapter_of: Callable[[int], Tensor], step: int
    ) -> tuple[Tensor, float, int]:
        """Give the adapters (n,) of those of our clients that have a weight.

        Returns the adapter (n,) to go on from, the total weight and the bytes this rank handed over.
        """
        told = torch.tensor([weights.get(number, 0) for number in self._clients])
        answer = torch.empty(sum(shape.numel() for shape in self._ranks.shapes) + 1)
        size = told.nbytes
        with naming("the aggregator", [self._hub], f"adapter averaging after step {step}"):
            dist.send(told, self._hub, self._group)
            for number in self._clients:
                if number in weights:
                    vector = self._ranks.packed(adapter_of(number), number)
                    dist.send(vector, self._hub, self._group)
                    size += vector.nbytes
            dist.recv(answer, self._hub, self._group)
        return answer[:-1], float(answer[-1]), size


class FactorHub:
    """The aggregator's end."""

    def __init__(self, group: dist.ProcessGroup, layout: Layout, ranks: Ranks) -> None:
        self._group = group
        self._layout = layout
        self._ranks = ranks

    def mean(self, before: Tensor, step: int) -> tuple[Tensor, float, int]:
        """Average the products of all clients' factors and tell all ranks; `before` (n,) is the last such adapter.

        Returns as FactorSpoke does. Without a weight the answer is `before`.
        """
        clients: list[list[Factors]] = []
        weights: list[float] = []
        size = 0
        for rank in self._layout.client_ranks:
            with naming(self._layout.name_of(rank), [rank], f"adapter averaging after step {step}"):
                for number, weight in self._receive_weights(rank):
                    vector = torch.empty(self._ranks.elements(number))
                    dist.recv(vector, rank, self._group)
                    clients.append(self._ranks.unpacked(vector, number))
                    weights.append(weight)
        mean = self._average(clients, weights, before) if weights else before
        answer = torch.cat([mean, torch.tensor([sum(weights)], dtype=mean.dtype)])
        for rank in self._layout.client_ranks:
            with naming(self._layout.name_of(rank), [rank], f"adapter averaging after step {step}"):
                dist.send(answer, rank, self._group)
            size += answer.nbytes
        return mean, float(answer[-1]), size

    def _receive_weights(self, rank: int) -> list[tuple[int, int]]:
        """The clients of a rank that have one."""
        clients = self._layout.clients_of(rank)
        told = torch.zeros(len(clients), dtype=torch.int64)
        dist.recv(told, rank, self._group)
        return [(number, weight) for number, weight in zip(clients, told.tolist(), strict=True) if weight]

    def _average(self, clients: list[list[Factors]], weights: list[float], before: Tensor) -> Tensor:
        """One weight of the model after the other, at the rank of the adapter that all share."""
        old = split(before, self._ranks.shapes)
        pairs = zip(zip(*clients, strict=True), old, strict=True)
        return joined([filled(svd(own, weights, each.rank), each) for own, each in pairs])


def factor_bytes(clients: int, elements: int) -> int:
    """What a client rank of so many clients hands over, for so many elements of those that have trained."""
    return 8 * clients + 4 * elements


def answer_bytes(ranks: int, elements: int) -> int:
    """What the aggregator hands over to so many client ranks, for so many elements of the whole adapter."""
    return ranks * 4 * (elements + 1)
