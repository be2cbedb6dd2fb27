"""Sums through the aggregator: whoever is lost on the way is left out, and for the others there is one sum only.

In an all-reduce a rank that dies may have given its share to some and not to others. Here the aggregator alone adds,
in the order of ranks, and what it sends is what the round has come to.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.errors import PeerLost


class Spoke:
    """A client rank's end. `announce` tells the aggregator that this rank has come to the sum after a step."""

    def __init__(self, pairs: Mapping[int, GlooPair], hub: int, announce: Callable[[int], None]) -> None:
        """The pair with rank `hub` may be made later, for a rank that comes back."""
        self._pairs = pairs
        self._hub = hub
        self._announce = announce

    def sum(self, buffer: Tensor, step: int) -> int:
        self._announce(step)
        with naming("the aggregator", [self._hub], f"adapter averaging after step {step}"):
            self._pairs[self._hub].send(buffer)
            self._pairs[self._hub].receive(buffer)
        return buffer.nbytes


class Hub:
    """The aggregator's end. `pairs` are its spokes by rank, and `gather` names those that have come to a sum."""

    def __init__(
        self, pairs: Mapping[int, GlooPair], gather: Callable[[int], list[int]], lose: Callable[[int], None]
    ) -> None:
        """`pairs` changes as ranks come and go; `lose` hears of those that are lost during a sum."""
        self._pairs = pairs
        self._gather = gather
        self._lose = lose

    def sum(self, buffer: Tensor, step: int) -> int:
        heard, size = [], 0
        shares = {rank: torch.empty_like(buffer) for rank in self._gather(step)}
        pending = {}
        for rank, share in shares.items():
            with self._without(rank, step):
                pending[rank] = self._pairs[rank].post_receive(share)
        for rank, receiving in pending.items():
            with self._without(rank, step):
                receiving.wait()
                heard.append(rank)
        for rank in heard:
            buffer += shares[rank]
        for rank in heard:
            with self._without(rank, step):
                self._pairs[rank].send(buffer)
                size += buffer.nbytes
        return size

    @contextmanager
    def _without(self, rank: int, step: int) -> Iterator[None]:
        """Go on behind this if the rank is lost in it."""
        try:
            with naming(f"rank {rank}", [rank], f"adapter averaging after step {step}"):
                yield
        except PeerLost:
            self._lose(rank)
