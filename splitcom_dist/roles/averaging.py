"""How the adapters of clients become one, by `fed.rank_aggregation`: a client rank's end and the aggregator's."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.comm.circle import Ring
from splitcom_dist.comm.factors import FactorHub, FactorSpoke
from splitcom_dist.comm.layer_mean import LayerMean
from splitcom_dist.comm.reduce import Averaging, make_averaging
from splitcom_dist.comm.stacked import Stacked, StackHub, StackSpoke
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.models.merging import MergedWeights
from splitcom_dist.roles.context import Context
from splitcom_dist.state import State, Stateful, Stateless

Mean = tuple[Tensor, float, int]  # the adapter (n,), where there is a weight; all clients' weight; bytes handed over


class ClientEnd(Stateful, Protocol):
    def mean(self, weights: Mapping[int, int], adapter_of: Callable[[int], Tensor], step: int) -> Mean:
        """Give the adapters (n,) of those of this rank's clients that have a weight. Raises PeerLost."""
        ...


class AggregatorEnd(Stateful, Protocol):
    def mean(self, before: Tensor, step: int) -> Mean:
        """Take part without an adapter; `before` (n,) is the last mean. Raises PeerLost."""
        ...


def end_of_client(
    context: Context, start: Tensor, ranks: Ranks, shared: LayerMean | None, merged: MergedWeights | None
) -> ClientEnd:
    """`start` (n,) is the adapter before training; `shared` averages its end, blocks that servers train too."""
    how, world = context.config.fed.rank_aggregation, context.world
    if how == "svd":
        return FactorSpoke(_ring(context).group, world.layout, world.rank, ranks)
    if merged is not None:
        return MergingClient(StackSpoke(_ring(context).group, world.layout, world.rank, ranks), merged)
    held = 0 if shared is None else context.cuts.deepest_of(world.layout.clients_of(world.rank))
    alone = len(start) - (shared.elements(held - context.cuts.shallowest) if shared else 0)
    return SumOfClients(_sum(context, start[:alone]), len(start), alone, shared, context.cuts)


def end_of_aggregator(
    context: Context, start: Tensor, ranks: Ranks, shared: LayerMean | None, merged: MergedWeights | None
) -> AggregatorEnd:
    """As the clients' ends; `start` (n,) has all shared blocks."""
    if context.config.fed.rank_aggregation == "svd":
        return FactorHub(_ring(context).group, context.world.layout, ranks)
    if merged is not None:
        return MergingAggregator(StackHub(_ring(context).group, context.world.layout, ranks), merged)
    alone = len(start) - (shared.elements(len(context.cuts.shared)) if shared else 0)
    return SumAtAggregator(_sum(context, start[:alone]), shared)


class SumOfClients:
    """The mean of adapters of which lower ranks are padded with zeros: their weighted sum, as all ranks add it up."""

    def __init__(self, averaging: Averaging, size: int, alone: int, shared: LayerMean | None, cuts: Cuts) -> None:
        """Of `size` elements the first, `alone`, are averaged by `averaging`, the blocks behind them by `shared`."""
        self._averaging = averaging
        self._size = size
        self._alone = alone
        self._shared = shared
        self._cuts = cuts

    def mean(self, weights: Mapping[int, int], adapter_of: Callable[[int], Tensor], step: int) -> Mean:
        weighted, weight = torch.zeros(self._alone), sum(weights.values())
        for number in sorted(weights):
            adapter = adapter_of(number)
            weighted += weights[number] * adapter[: self._alone]
            if self._shared is not None:
                count = self._cuts.shared_by(number)
                trained = adapter[self._alone : self._alone + self._shared.elements(count)]
                self._shared.add(trained, [weights[number]] * count)
        own = weighted / weight if weight else None  # None: since the last averaging none of them had a batch
        mean, total, size = _with_shared(self._averaging.mean(own, weight, step), self._shared, step)
        return mean[: self._size], total, size

    def state(self) -> State:
        return self._averaging.state()

    def load(self, state: State) -> None:
        self._averaging.load(state)


class SumAtAggregator:
    def __init__(self, averaging: Averaging, shared: LayerMean | None) -> None:
        self._averaging = averaging
        self._shared = shared

    def mean(self, before: Tensor, step: int) -> Mean:
        return _with_shared(self._averaging.mean(None, 0.0, step), self._shared, step)

    def state(self) -> State:
        return self._averaging.state()

    def load(self, state: State) -> None:
        self._averaging.load(state)


class MergingClient(Stateless):
    """The mean of products, merged into frozen weights; what all go on from is a new adapter."""

    def __init__(self, spoke: StackSpoke, merged: MergedWeights) -> None:
        self._spoke = spoke
        self._merged = merged

    def mean(self, weights: Mapping[int, int], adapter_of: Callable[[int], Tensor], step: int) -> Mean:
        return _merge(self._spoke.exchange(weights, adapter_of, step), self._merged, step)


class MergingAggregator(Stateless):
    def __init__(self, hub: StackHub, merged: MergedWeights) -> None:
        self._hub = hub
        self._merged = merged

    def mean(self, before: Tensor, step: int) -> Mean:
        return _merge(self._hub.exchange(step), self._merged, step)


def _merge(stacked: Stacked, merged: MergedWeights, step: int) -> Mean:
    factors, weight, size = stacked
    return merged.merge(factors, step) if weight else torch.empty(0), weight, size


def _with_shared(mean: Mean, shared: LayerMean | None, step: int) -> Mean:
    if shared is None:
        return mean
    alone, weight, size = mean
    blocks, _, more = shared.mean(step)
    return torch.cat([alone, blocks]), weight, size + more


def _sum(context: Context, start: Tensor) -> Averaging:
    return make_averaging(context.config.fed.adapter_quantizer, start, context.world.circle)


def _ring(context: Context) -> Ring:
    ring = context.world.circle
    assert isinstance(ring, Ring)  # the configuration is checked: a tolerant run only sums
    return ring
