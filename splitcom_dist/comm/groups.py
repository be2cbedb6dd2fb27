"""The process groups of one rank: a pair an edge, the circle that averages adapters, the servers' own."""

from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from splitcom_dist.comm.circle import Ring
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.comm.transports import Transport
from splitcom_dist.layout import Layout
from splitcom_dist.presence.pulse import SILENCE

PATIENCE = 3.0  # timeouts, for which others wait while a server or the aggregator waits one for a client that is lost


class Groups:
    """Made by all ranks together; pairs with a client rank also later, when it has come back (membership.py).

    There is one pair an edge, so that a timeout closes that edge only.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        layout: Layout,
        timeout_seconds: float,
        tolerant: bool,
        make_edge: Callable[[dist.Store, str, int, int, float], Transport],
    ) -> None:
        """`tolerant`: the run goes on when client ranks are lost, so no group but a pair may need them.
        `make_edge` meets the peer at the other end of an edge, on the terms that it is given.
        """
        self._make_edge = make_edge
        self._store = store
        self._rank = rank
        self._layout = layout
        self._timeout = timeout_seconds
        self._tolerant = tolerant
        self.gradients: dist.ProcessGroup | None = None  # of all servers and their shards, if they are several
        self.shards: dist.ProcessGroup | None = None  # of this rank's server, if it has several
        self.ring: Ring | None = None  # that averages, where no rank may be lost
        self.edges: dict[int, Transport] = {}  # with the server or client rank at the other end
        self.spokes: dict[int, GlooPair] = {}  # between the aggregator and client ranks, where those may be lost
        self.evaluation: GlooPair | None = None  # between the first server and the aggregator

    def join(self) -> None:
        """Make all groups; every rank makes those it is in in the same order.

        Raises RuntimeError if the others do not come within the timeout.
        """
        layout, patience = self._layout, timedelta(seconds=self._patience)
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("torch", self._store),
            rank=self._rank,
            world_size=layout.world_size,
            timeout=patience,
        )
        if not self._tolerant:
            self.ring = Ring(dist.new_group([*layout.client_ranks, layout.aggregator_rank], timeout=patience))
        if len(layout.body_ranks) > 1:
            self.gradients = dist.new_group(list(layout.body_ranks), timeout=patience)
        for server in layout.server_ranks if layout.server_shards > 1 else ():
            group = dist.new_group(list(layout.shards_of(server)), timeout=patience)
            if self._rank in layout.shards_of(server):
                self.shards = group
        for client_rank, server in layout.edges():
            if self._rank in (client_rank, server):
                self.meet_at_edge(client_rank, 0)
        if self._rank in (layout.first_server, layout.aggregator_rank):
            peer = layout.first_server if self._rank == layout.aggregator_rank else layout.aggregator_rank
            self.evaluation = GlooPair(self._store, "evaluation", self._rank, peer, self._patience)
        for client_rank in layout.client_ranks if self._tolerant else ():
            if self._rank in (client_rank, layout.aggregator_rank):
                self.meet_at_spoke(client_rank, 0)

    def meet_at_edge(self, client_rank: int, incarnation: int) -> Transport:
        """Make the pair of a client rank and its server, which both call."""
        pair = self._make_edge(*self._terms("edge", client_rank, self._layout.server_of(client_rank), incarnation))
        self.edges[pair.peer] = pair
        return pair

    def meet_at_spoke(self, client_rank: int, incarnation: int) -> GlooPair:
        """Make the pair of a client rank and the aggregator, which both call."""
        pair = GlooPair(*self._terms("spoke", client_rank, self._layout.aggregator_rank, incarnation))
        self.spokes[pair.peer] = pair
        return pair

    def _terms(
        self, kind: str, client_rank: int, other: int, incarnation: int
    ) -> tuple[dist.Store, str, int, int, float]:
        """On which this rank and another meet: store, name, both ranks, timeout."""
        # A server waits for a client for one timeout, and the client for it longer: it may be waiting for another one,
        # that is lost. The aggregator has less patience than a server, who may wait for those that wait for it.
        mine = self._rank == client_rank
        name = f"{kind}/{client_rank}/{incarnation}"
        timeout = self._patience if mine else self._timeout
        if self._tolerant and self._rank == self._layout.aggregator_rank:
            timeout *= SILENCE / 2  # on top of the silence that it may have waited for before
        return self._store, name, self._rank, other if mine else client_rank, timeout

    @property
    def _patience(self) -> float:
        return patience_seconds(self._timeout, self._tolerant)

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def patience_seconds(timeout_seconds: float, tolerant: bool) -> float:
    """How long to wait for a rank that may itself be waiting for a client rank."""
    return PATIENCE * timeout_seconds if tolerant else timeout_seconds
