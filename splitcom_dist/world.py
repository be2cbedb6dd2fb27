"""One rank among the others: the store they share, their process groups, and who of them takes part."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist

from splitcom_dist.board import Board
from splitcom_dist.comm.circle import Circle
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.groups import Groups, patience_seconds
from splitcom_dist.comm.link import Transport
from splitcom_dist.comm.mpi_p2p import MpiCommunicator, available, check_launcher
from splitcom_dist.comm.nccl_p2p import NcclTransport, check_devices, connect
from splitcom_dist.comm.shaped import Link, ShapedTransport, hold
from splitcom_dist.comm.star import Hub, Spoke
from splitcom_dist.config import LinkConfig
from splitcom_dist.devices import identity
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place
from splitcom_dist.presence.anew import ANEW
from splitcom_dist.presence.membership import Membership
from splitcom_dist.presence.pulse import SILENCE, Fate, Pulse
from splitcom_dist.rendezvous import find_rendezvous


class World(Board):
    """What a rank needs of the others: the board, transports to them, and, where the run goes on without client ranks
    that are lost (`tolerant`), who takes part."""

    def __init__(
        self,
        place: Place,
        layout: Layout,
        timeout_seconds: float,
        transport: str = "gloo",
        link: LinkConfig | None = None,
        tolerant: bool = False,
    ) -> None:
        """Meet all other ranks; `transport` carries the packets of the edges, as over `link` where there is one."""
        if transport == "mpi":
            check_launcher(place, os.environ)
        self.place = place
        self.timeout = timeout_seconds
        self.tolerant = tolerant
        self._link = link or LinkConfig()
        self._up, self._down = self._links()
        # A job that is started again meets no old news.
        self._attempt = f"splitcom/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        meeting = find_rendezvous(place, os.environ, timeout_seconds)
        self.meeting = meeting.address, meeting.port
        try:
            open_store = meeting.reach_store if ANEW in os.environ else meeting.open_store
            self._connection = open_store(place, timeout_seconds)
            store = dist.PrefixStore(self._attempt, self._connection)
            super().__init__(store, place.rank, layout, patience_seconds(timeout_seconds, tolerant))
            self.membership = Membership(self)
            self.incarnation = self.membership.enter() if tolerant else 0
            self._check_return()
            self.groups = Groups(store, self.rank, layout, timeout_seconds, tolerant)
            if not self.incarnation:
                self.groups.join()
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"cannot meet the other {place.world_size - 1} ranks at {meeting.address}:{meeting.port} "
                f"within {timeout_seconds:.0f} s: {str(error).splitlines()[0]}"
            ) from None
        self._pulse: Pulse | None = None
        self._mpi = self._join_mpi() if transport == "mpi" else None
        self._device_transports: dict[int, NcclTransport] = {}  # by client rank

    @property
    def comes_back(self) -> bool:
        """Whether this process takes the place of one that was lost."""
        return self.incarnation > 0

    def _check_return(self) -> None:
        if self.comes_back and self.rank not in self.layout.client_ranks:
            raise UserError(
                f"{self.layout.name_of(self.rank)} was started again in a run that goes on: only client ranks can come "
                "back; start all ranks again, with resume=auto"
            )

    def _join_mpi(self) -> MpiCommunicator:
        """MPI waits without a timeout for ranks that never come, so all say first that they can."""
        lacking = torch.zeros(self.layout.world_size, dtype=torch.int64)
        lacking[self.rank] = not available()
        if ranks := self.sum_over_ranks("mpi", lacking).nonzero().flatten().tolist():
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
        transport = self.groups.edges[peer] if self._mpi is None else self._mpi.transport(peer, tag=client_rank)
        if self._link == LinkConfig():
            return transport
        # What a client sends shares its uplink; what a server sends meets the downlink of the client it is for.
        return ShapedTransport(transport, self._up if self.rank == client_rank else self._links()[1])

    @property
    def circle(self) -> Circle:
        """That averages client adapters."""
        groups = self.groups
        if groups.ring is not None:
            return groups.ring
        if self.rank == self.layout.aggregator_rank:
            return Hub(groups.spokes, self._gather, self.lose)
        arrived = f"arrived/{self.rank}/{self.incarnation}"
        return Spoke(groups.spokes, self.layout.aggregator_rank, lambda step: self.announce(arrived, str(step)))

    def await_round(self, step: int) -> None:
        """The aggregator waits for the clients here, where it sees their progress, and not inside the sum."""
        if self.tolerant:
            self._gather(step)
        else:
            self.wait_for(f"round/{step}", self.layout.client_ranks, f"the averaging after step {step}")

    def _gather(self, step: int) -> list[int]:
        """Client ranks that have come to the averaging after a step; all but the lost ones do."""
        what = f"the averaging after step {step}"
        ranks = self.layout.client_ranks
        return [rank for rank in ranks if self.wait_until(partial(self._has_come, rank, step), [rank], what)]

    def _has_come(self, rank: int, step: int) -> bool | None:
        """Whether to the averaging after a step; None if that is still open, False if it is lost."""
        if self.gone(rank):
            return False
        last = self.heard(f"arrived/{rank}/{self.membership.admitted(rank)}")
        return True if last is not None and int(last) >= step else None

    def connect_devices(self, device: torch.device) -> None:
        """Connect this rank's device with that at the other end of each of its edges, over NCCL; all ranks call it.

        Raises UserError, the same on every rank, where devices do not allow it; PeerLost.
        """
        self.announce(f"device/{self.rank}", identity(device) if dist.is_nccl_available() else "")
        everyone = range(self.layout.world_size)
        check_devices(self.layout, {rank: self.wait_for(f"device/{rank}", [rank], "the devices") for rank in everyone})
        for edge in self.layout.edges():  # in one order on all ranks: of all pairs still to be made, the first can be
            if self.rank in edge:
                peer = edge[1 - edge.index(self.rank)]
                with naming(self.layout.name_of(peer), [peer], "the start of NCCL"):
                    self._device_transports[edge[0]] = connect(self._store, edge, self.rank, device, self.timeout)

    def device_transport(self, client_rank: int) -> NcclTransport | None:
        """The channel for payloads on devices to the other end of a client rank's edge; None but with NCCL."""
        return self._device_transports.get(client_rank)

    def hold(self, size: int, since: float) -> None:
        """Make averaging, begun at `since`, last as long as `size` bytes take up and down this rank's link."""
        if self._link != LinkConfig():
            hold(size, since, self._up, self._down)

    def _links(self) -> tuple[Link, Link]:
        """Up and down."""
        return Link(self._link.up_mbit, self._link.delay_ms), Link(self._link.down_mbit, self._link.delay_ms)

    def hear_all(self, key: str, ranks: Iterable[int], what: str) -> dict[int, str]:
        """What each of `ranks` announces under `key/rank`; a client rank that is lost is left out."""
        told = {rank: self.wait_until(partial(self._word, key, rank), [rank], what) for rank in ranks}
        return {rank: text for rank, text in told.items() if text}

    def _word(self, key: str, rank: int) -> str | None:
        """None if it is still to come, nothing if the rank is lost."""
        return self.heard(f"{key}/{rank}") or ("" if self.gone(rank) else None)

    def sum_over_ranks(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum of an int64 vector over all ranks, for small facts agreed at start and end.

        The aggregator adds up; who has come back hears what the others have agreed on.
        """
        what = f"a sum over all ranks ({name})"
        self.announce(f"{name}/{self.rank}", json.dumps(values.tolist()))
        if self.rank != self.layout.aggregator_rank:
            return torch.tensor(json.loads(self.wait_for(name, [self.layout.aggregator_rank], what)))
        told = self.hear_all(name, range(self.layout.world_size), what)
        total = torch.tensor([json.loads(text) for text in told.values()]).sum(0)
        self.announce(name, json.dumps(total.tolist()))
        return total

    @property
    def silence_seconds(self) -> float:
        """After so long without a beat a process is taken for lost."""
        return SILENCE * self.timeout

    def welcome(self, rank: int) -> None:
        """A client rank that is lost has come back."""
        if self._pulse is not None:
            self._pulse.hear(rank)

    def live(self, end: Callable[[Fate, list[int]], None]) -> None:
        """Begin to tell that this process lives, and to listen to the others; `end` hears, from a thread, why it must
        not go on as it is."""
        layout = self.layout
        mine = [rank for rank in layout.client_ranks if layout.server_of(rank) == self.rank]
        essential = [*layout.server_ranks, layout.aggregator_rank]
        watched = range(layout.world_size) if self.rank == layout.aggregator_rank else [*mine, *essential]
        self._pulse = Pulse(
            self._another_store(),
            self.rank,
            self.membership.lost_key(self.rank, self.incarnation),
            watched,
            essential,
            self.silence_seconds,
            end,
        )
        self._pulse.start()

    def _another_store(self) -> dist.Store:
        connection: dist.Store = self._connection.clone()  # type: ignore[attr-defined]
        return dist.PrefixStore(self._attempt, connection)

    def report_failure_apart(self) -> bool:
        """`report_failure` from another thread than the one that may be waiting on the store."""
        try:
            return bool(self._another_store().add("failures", 1) == 1)
        except RuntimeError:
            return True

    def enter_again(self) -> None:
        """This rank was lost when the run that is resumed was saved: it comes back to it."""
        self.incarnation = self.membership.enter()

    def silent(self, rank: int) -> bool:
        """Whether a client rank, of a run that goes on without it, has told nothing for too long."""
        return self._pulse is not None and rank in self.layout.client_ranks and self._pulse.silent(rank)

    def gone(self, rank: int) -> bool:
        """Whether a client rank is lost; one that has been silent for too long is, from now on."""
        if not self.tolerant or rank not in self.layout.client_ranks:
            return False
        if self.membership.is_lost(rank):
            return True
        if self.silent(rank):
            self.lose(rank)
            return True
        return False

    def lose(self, rank: int) -> None:
        """Say that a client rank is lost."""
        self.membership.lose(rank, self.membership.admitted(rank))

    def leave(self) -> None:
        """Close the groups, once every rank has come to its end: one may host the store, or still write for all."""
        self.sum_over_ranks("end", torch.zeros(1, dtype=torch.int64))
        if self._pulse is not None:
            self._pulse.rest()
        self.part(sum(not self.gone(rank) for rank in range(self.layout.world_size)))
        self.groups.leave()
