"""One rank among the others: what they tell each other, and the process groups and transports between them."""

import os
from functools import partial

import torch
import torch.distributed as dist

from splitcom_dist.assembly import Assembly
from splitcom_dist.comm.circle import Circle, Ring
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.comm.groups import Groups
from splitcom_dist.comm.mpi_p2p import MpiCommunicator, available, check_launcher
from splitcom_dist.comm.nccl_p2p import NcclTransport, check_devices, connect
from splitcom_dist.comm.shaped import Link, ShapedTransport, hold
from splitcom_dist.comm.star import Hub, Spoke
from splitcom_dist.comm.tcp_meeting import address_towards
from splitcom_dist.comm.tcp_p2p import TcpPair
from splitcom_dist.comm.transports import Transport
from splitcom_dist.config.schema import LinkConfig
from splitcom_dist.devices import identity
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place


class World(Assembly):
    """What a rank needs of the others: the board, who takes part, and transports to them."""

    def __init__(
        self,
        place: Place,
        layout: Layout,
        timeout_seconds: float,
        transport: str = "tcp",
        link: LinkConfig | None = None,
        tolerant: bool = False,
    ) -> None:
        """Meet all other ranks; `transport` carries the packets of the edges, as over `link` where there is one."""
        if transport == "mpi":
            check_launcher(place, os.environ)
        self._link = link or LinkConfig()
        self._up, self._down = self._links()
        super().__init__(place, layout, timeout_seconds, tolerant)
        meet = partial(TcpPair, host=self._own_address()) if transport in ("tcp", "nccl") else GlooPair
        self.groups = Groups(self._store, self.rank, layout, timeout_seconds, tolerant, meet)
        try:
            if not self.comes_back:
                self.groups.join()
        except (RuntimeError, ValueError) as error:
            raise self.cannot_meet(error) from None
        self._mpi = self._join_mpi() if transport == "mpi" else None
        self._device_transports: dict[int, NcclTransport] = {}  # by client rank

    def _own_address(self) -> str:
        try:
            return address_towards(*self.meeting)
        except OSError as error:
            raise UserError(
                f"{self.meeting[0]}: no address of this host for the way there ({error}); export "
                "GLOO_SOCKET_IFNAME, the interface of the network that joins the ranks, or set transport=gloo"
            ) from None

    def _join_mpi(self) -> MpiCommunicator:
        """MPI waits without a timeout for ranks that never come, so all say first that they can."""
        lacking = torch.zeros(self.layout.world_size, dtype=torch.int64)
        lacking[self.rank] = not available()
        if ranks := self.sum_over_ranks("mpi", lacking).nonzero().flatten().tolist():
            names = ", ".join(map(self.layout.name_of, ranks))
            raise UserError(
                f"transport=mpi: mpi4py or its MPI library is missing on {names}: pip install 'splitcom-dist[mpi]' and "
                "install Open MPI or MPICH there, or set transport=tcp"
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

    @property
    def everyone(self) -> Ring:
        """That averages what servers train too; no rank may be lost in it."""
        assert dist.group.WORLD is not None
        return Ring(dist.group.WORLD)

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

    def leave(self, code: int = 0) -> None:
        """Close the groups, once every rank has come to its end; who waits to come back hears the exit code."""
        self.announce("over", str(code))
        self.disperse()
        self.groups.leave()
