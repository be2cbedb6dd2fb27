"""The server's side: which client ranks it serves, from when to when."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from splitcom_dist.comm.link import Edge
from splitcom_dist.errors import PeerLost
from splitcom_dist.world import World


class Service:
    """`edges` lead to the client ranks of this server; of each it serves the incarnation that was admitted last.

    Where the run does not go on without lost clients, it serves all of them and every loss is raised.
    """

    def __init__(self, world: World, edges: Mapping[int, Edge]) -> None:
        self._world = world
        self._edges = edges
        self._served = dict.fromkeys(edges, 0)  # incarnations
        self._lost: dict[int, str] = {}  # since the last step, and why

    def begin(self, step: int) -> tuple[dict[int, str], list[int]]:
        """Before a step: part from those who are lost, and take those who have come back.

        Returns who is lost since the last step, and why, and who has come. Raises PeerLost once nobody is left.
        """
        world, come = self._world, []
        if not world.tolerant:
            return {}, []
        if world.membership.has_changed():
            for rank in [rank for rank in self._served if world.membership.is_lost(rank, self._served[rank])]:
                self._lose(rank, f"{world.layout.name_of(rank)} is gone")
            if not world.membership.present(world.layout.client_ranks):
                raise PeerLost("every client rank is lost", tuple(world.layout.client_ranks))
            come = [rank for rank in self._edges if rank not in self._served and self._take(rank, step)]
        world.announce(f"serving/{world.rank}", str(step))
        lost, self._lost = self._lost, {}
        return lost, come

    def serves(self, rank: int) -> bool:
        """Whether to turn to a client rank; not if it has been silent for too long."""
        if rank in self._served and self._world.silent(rank):
            name, seconds = self._world.layout.name_of(rank), self._world.silence_seconds
            self._lose(rank, f"{name} gave no sign of life for {seconds:g} s")
        return rank in self._served

    @contextmanager
    def tolerating(self, rank: int) -> Iterator[None]:
        """Go on behind this if the client rank is lost in it."""
        try:
            yield
        except PeerLost as error:
            if not self._world.tolerant or error.ranks != (rank,):
                raise
            self._lose(rank, str(error))

    def close(self) -> None:
        """No client is served any more."""
        for edge in self._edges.values():
            edge.close()

    def _lose(self, rank: int, reason: str) -> None:
        if rank in self._served:
            self._lost[rank] = reason
            self._edges[rank].outbox.close()  # what belongs to its clients is given up
            self._world.membership.lose(rank, self._served.pop(rank))

    def _take(self, rank: int, step: int) -> bool:
        """Meet who was admitted anew, and serve it from this step on; False if there is nobody."""
        world = self._world
        incarnation = world.membership.admitted(rank)
        if world.membership.is_lost(rank, incarnation):
            return False
        world.announce(f"served/{rank}/{incarnation}", str(step))
        try:
            world.groups.meet_at_edge(rank, incarnation)
        except RuntimeError:  # lost again
            world.membership.lose(rank, incarnation)
            return False
        world.welcome(rank)
        self._edges[rank].connect(world.transport(rank))
        self._served[rank] = incarnation
        return True
