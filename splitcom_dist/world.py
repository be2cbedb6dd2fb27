"""The process groups of one rank, and a store for what ranks must tell each other outside the step."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from splitcom_dist.comm.failures import culprits, naming
from splitcom_dist.comm.link import Transport
from splitcom_dist.comm.mpi_p2p import MpiCommunicator, available, check_launcher
from splitcom_dist.comm.shaped import Link, ShapedTransport, hold
from splitcom_dist.comm.torch_p2p import TorchTransport
from splitcom_dist.config import LinkConfig
from splitcom_dist.errors import PeerLost, UserError
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place
from splitcom_dist.rendezvous import Rendezvous, find_rendezvous

T = TypeVar("T")
PATIENCE_SECONDS = 2.0  # what others get to report, or to say for whom they wait, before a lost peer is blamed


class World:
    """The process groups of one rank, and a store through which ranks wait for each other and report failures.

    Long waits (a whole round, an evaluation) go through the store and watch the other side's progress; only
    transfers that are due now wait inside a collective or a receive.
    """

    def __init__(
        self,
        place: Place,
        layout: Layout,
        timeout_seconds: float,
        transport: str = "gloo",
        link: LinkConfig | None = None,
    ) -> None:
        """Meet all other ranks; `transport` carries the packets of the edges, as over `link` where there is one."""
        if transport == "mpi":
            check_launcher(place, os.environ)
        self.place = place
        self.rank = place.rank
        self.layout = layout
        self.timeout = timeout_seconds
        self._last_beat = 0.0
        self._link = link or LinkConfig()
        self._up, self._down = self._links()
        meeting = find_rendezvous(place, os.environ, timeout_seconds)
        try:
            self._join(meeting)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"cannot meet the other {place.world_size - 1} ranks at {meeting.address}:{meeting.port} "
                f"within {timeout_seconds:.0f} s: {str(error).splitlines()[0]}"
            ) from None
        self._mpi = self._join_mpi() if transport == "mpi" else None

    def _join(self, meeting: Rendezvous) -> None:
        patience = timedelta(seconds=self.timeout)
        store = meeting.open_store(self.place, self.timeout)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a restarted job meets no old news
        self._store = dist.PrefixStore(f"splitcom/{attempt}", store)
        torch_store = dist.PrefixStore(f"torch/{attempt}", store)
        dist.init_process_group(
            "gloo", store=torch_store, rank=self.rank, world_size=self.place.world_size, timeout=patience
        )
        # Every rank creates every group, in the same order: one group an edge, so that a timeout closes that edge only.
        layout = self.layout
        self.edge_groups = {edge: dist.new_group(list(edge), timeout=patience) for edge in layout.edges()}
        averaging = [*layout.client_ranks, layout.aggregator_rank]
        self.averaging_group = dist.new_group(averaging, timeout=patience)
        self.evaluation_group = dist.new_group([layout.first_server, layout.aggregator_rank], timeout=patience)
        self.gradient_group = (
            dist.new_group(list(layout.server_ranks), timeout=patience) if layout.server_rank_count > 1 else None
        )

    def _join_mpi(self) -> MpiCommunicator:
        """MPI waits without a timeout for ranks that never come, so all say first that they can."""
        lacking = torch.zeros(self.layout.world_size, dtype=torch.int64)
        lacking[self.rank] = not available()
        if ranks := self.sum_over_ranks(lacking).nonzero().flatten().tolist():
            names = ", ".join(map(self.layout.name_of, ranks))
            raise UserError(
                f"transport=mpi: mpi4py or its MPI library is missing on {names}: pip install 'splitcom-dist[mpi]' and "
                "install Open MPI or MPICH there, or set transport=gloo"
            )
        with naming("a rank", range(self.layout.world_size), "the start of MPI"):
            return MpiCommunicator(self.place, self.timeout)

    def transport(self, client_rank: int) -> Transport:
        """The channel from this rank to the other end of a client rank's edge."""
        server = self.layout.server_of(client_rank)
        peer = server if self.rank == client_rank else client_rank
        transport: Transport
        if self._mpi is not None:
            transport = self._mpi.transport(peer, tag=client_rank)
        else:
            transport = TorchTransport(self.edge_groups[client_rank, server], peer)
        if self._link == LinkConfig():
            return transport
        # What a client sends shares its uplink; what a server sends meets the downlink of the client it is for.
        return ShapedTransport(transport, self._up if self.rank == client_rank else self._links()[1])

    def hold(self, size: int, since: float) -> None:
        """Make averaging, begun at `since`, last as long as `size` bytes take up and down this rank's link."""
        if self._link != LinkConfig():
            hold(size, since, self._up, self._down)

    def _links(self) -> tuple[Link, Link]:
        """Up and down."""
        return Link(self._link.up_mbit, self._link.delay_ms), Link(self._link.down_mbit, self._link.delay_ms)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum of an int64 vector over all ranks; for small facts agreed at start and end."""
        with naming("a rank", range(self.layout.world_size), "a sum over all ranks"):
            dist.all_reduce(values)
        return values

    def announce(self, key: str, value: str = "1") -> None:
        self._store.set(key, value)

    def collect(self, key: str, value: str) -> dict[int, str] | None:
        """Give a value to all; every rank's, by rank, for the one that comes last, None for the others."""
        self._store.set(f"{key}/{self.rank}", value)
        if self._store.add(key, 1) < self.layout.world_size:
            return None
        return {rank: self._store.get(f"{key}/{rank}").decode() for rank in range(self.layout.world_size)}

    def beat(self) -> None:
        """Say that this rank makes progress; cheap enough to call every step."""
        now = time.monotonic()
        if now - self._last_beat > 1.0:
            self._last_beat = now
            self._store.add(f"beat/{self.rank}", 1)

    def wait_for(self, key: str, ranks: list[int], what: str) -> str:
        """Block until `key` is announced; raises PeerLost if `ranks` make no progress for the timeout."""
        return self.wait_until(lambda: self.heard(key), ranks, what)

    def wait_until(self, ask: Callable[[], T | None], ranks: list[int], what: str) -> T:
        """Block until `ask` has an answer; raises PeerLost if `ranks` make no progress for the timeout."""
        beats, since, nap = -1, time.monotonic(), 0.001
        while (answer := ask()) is None:
            time.sleep(nap)
            nap = min(1.5 * nap, 0.05)  # polled, not blocked: a store's own timeout closes its connection
            self.raise_if_failed()
            now = sum(self._store.add(f"beat/{rank}", 0) for rank in ranks)
            if now != beats:
                beats, since = now, time.monotonic()
            if time.monotonic() - since > self.timeout:
                names = ", ".join(self.layout.name_of(rank) for rank in ranks)
                raise PeerLost(f"{names} made no progress for {self.timeout:.0f} s during {what}", tuple(ranks))
        return answer

    def heard(self, key: str) -> str | None:
        """What was announced under `key`, None if nothing was."""
        with naming("the rank that hosts the rendezvous store", [], f"a look for {key}"):
            return str(self._store.get(key).decode()) if self._store.check([key]) else None

    def report_failure(self) -> bool:
        """True for the first rank that fails: it prints the one line; the others leave quietly."""
        try:
            return bool(self._store.add("failures", 1) == 1)
        except RuntimeError:
            return False  # the store went with the rank that hosts it, which has reported

    def explain(self, error: PeerLost) -> str | None:
        """The line to report when a peer is lost, or None if another rank reports why.

        A rank that waits in vain is often waited for itself, so all that give up say for whom they waited, and
        the blame goes to whom they wait for in the end.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            self._store.set(f"waiting/{self.rank}", json.dumps(error.ranks))
            while time.monotonic() < deadline:
                if self._failures():
                    return None
                time.sleep(0.05)
            keys = {rank: f"waiting/{rank}" for rank in range(self.layout.world_size)}
            given_up = {rank: key for rank, key in keys.items() if self._store.check([key])}
            waiting = {rank: json.loads(self._store.get(key)) for rank, key in given_up.items()}
        except RuntimeError:
            return None
        blamed = sorted(culprits(self.rank, waiting))
        if not blamed or set(blamed) == set(error.ranks):
            return str(error)
        return f"{', '.join(map(self.layout.name_of, blamed))} made others wait in vain: {error}"

    def raise_if_failed(self) -> None:
        if self._failures():
            raise PeerLost("another rank failed")

    def _failures(self) -> bool:
        try:
            return bool(self._store.add("failures", 0) > 0)
        except RuntimeError:
            return True  # the store went with the rank that hosts it

    def leave(self) -> None:
        """Close the groups, once every rank has come to its end: one may host the store, or still write for all."""
        self.sum_over_ranks(torch.zeros(1, dtype=torch.int64))
        dist.destroy_process_group()
