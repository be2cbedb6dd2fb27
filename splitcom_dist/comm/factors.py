"""Client adapters through the aggregator, to whom every client gives its factors; here it averages their products.

A sum cannot tell them: the mean of products is not that of flat vectors. Every client's factors cross at its own rank.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.aggregate.factors import Factors, joined, split
from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.aggregate.svd import filled, svd
from splitcom_dist.comm.failures import naming
from splitcom_dist.layout import Layout
from splitcom_dist.state import Stateless


def send_factors(
    group: dist.ProcessGroup,
    hub: int,
    clients: Sequence[int],
    weights: Mapping[int, int],
    factors_of: Callable[[int], Tensor],
) -> int:
    """Give the hub the factors of those of these clients that have a weight, as `Ranks.packed` gives them.

    Returns the bytes, those of the weights among them.
    """
    told = torch.tensor([weights.get(number, 0) for number in clients])
    size = told.nbytes
    dist.send(told, hub, group)
    for number in clients:
        if number in weights:
            vector = factors_of(number)
            dist.send(vector, hub, group)
            size += vector.nbytes
    return size


def receive_factors(
    group: dist.ProcessGroup, layout: Layout, ranks: Ranks, step: int
) -> tuple[dict[int, Tensor], dict[int, int]]:
    """What all client ranks give, and the weights of the clients that have one; both by client, rank after rank."""
    given, weights = dict[int, Tensor](), dict[int, int]()
    for rank in layout.client_ranks:
        clients = layout.clients_of(rank)
        told = torch.zeros(len(clients), dtype=torch.int64)
        with naming(layout.name_of(rank), [rank], f"adapter averaging after step {step}"):
            dist.recv(told, rank, group)
            for number, weight in zip(clients, told.tolist(), strict=True):
                if weight:
                    weights[number], given[number] = weight, torch.empty(ranks.elements(number))
                    dist.recv(given[number], rank, group)
    return given, weights


class FactorSpoke(Stateless):
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
        answer = torch.empty(sum(shape.numel() for shape in self._ranks.shapes) + 1)
        with naming("the aggregator", [self._hub], f"adapter averaging after step {step}"):
            size = send_factors(
                self._group,
                self._hub,
                self._clients,
                weights,
                lambda number: self._ranks.packed(adapter_of(number), number),
            )
            dist.recv(answer, self._hub, self._group)
        return answer[:-1], float(answer[-1]), size


class FactorHub(Stateless):
    """The aggregator's end."""

    def __init__(self, group: dist.ProcessGroup, layout: Layout, ranks: Ranks) -> None:
        self._group = group
        self._layout = layout
        self._ranks = ranks

    def mean(self, before: Tensor, step: int) -> tuple[Tensor, float, int]:
        """Average the products of all clients' factors and tell all ranks; `before` (n,) is the last such adapter.

        Returns as FactorSpoke does. Without a weight the answer is `before`.
        """
        given, weights = receive_factors(self._group, self._layout, self._ranks, step)
        clients = [self._ranks.unpacked(vector, number) for number, vector in given.items()]
        mean = self._average(clients, list(weights.values()), before) if weights else before
        answer, size = torch.cat([mean, torch.tensor([sum(weights.values())], dtype=mean.dtype)]), 0
        for rank in self._layout.client_ranks:
            with naming(self._layout.name_of(rank), [rank], f"adapter averaging after step {step}"):
                dist.send(answer, rank, self._group)
            size += answer.nbytes
        return mean, float(answer[-1]), size

    def _average(self, clients: Sequence[list[Factors]], weights: Sequence[float], before: Tensor) -> Tensor:
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
