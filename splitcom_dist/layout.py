"""Which rank plays which role, and which logical clients live where: a pure function of the configuration."""

from dataclasses import dataclass

from splitcom_dist.config import Config
from splitcom_dist.errors import UserError

MANY = 16  # clients of one rank


@dataclass(frozen=True)
class Layout:
    """Ranks 0..C-1 are clients, the next S servers, the last one the aggregator."""

    client_rank_count: int
    server_rank_count: int
    clients: int  # logical clients

    @property
    def world_size(self) -> int:
        return self.client_rank_count + self.server_rank_count + 1

    @property
    def client_ranks(self) -> range:
        return range(self.client_rank_count)

    @property
    def server_ranks(self) -> range:
        return range(self.client_rank_count, self.world_size - 1)

    @property
    def first_server(self) -> int:
        """The server that speaks for all where they hold the same: adapter, progress, the row of a whole step."""
        return self.server_ranks[0]

    @property
    def aggregator_rank(self) -> int:
        return self.world_size - 1

    def role_of(self, rank: int) -> str:
        if rank in self.client_ranks:
            return "client"
        return "aggregator" if rank == self.aggregator_rank else "server"

    def name_of(self, rank: int) -> str:
        """The rank as errors and tables call it: `rank 1 (client 1,4)`; of very many clients not every one."""
        role = self.role_of(rank)
        if role == "client":
            names = [*map(str, self.clients_of(rank))]
            role += " " + ",".join(names if len(names) <= MANY else [*names[:3], "..", names[-1]])
        return f"rank {rank} ({role})"

    def clients_of(self, rank: int) -> list[int]:
        """Logical clients of a client rank, in the order of their turns."""
        return list(range(rank, self.clients, self.client_rank_count))

    def rank_of(self, client: int) -> int:
        return client % self.client_rank_count

    def server_of(self, client_rank: int) -> int:
        return self.server_ranks[client_rank % self.server_rank_count]

    def edges(self) -> list[tuple[int, int]]:
        """(client rank, server rank) of every pair that exchanges packets, in the order all ranks set them up."""
        return [(rank, self.server_of(rank)) for rank in self.client_ranks]


def layout_for(config: Config, world_size: int | None = None) -> Layout:
    """The configured layout; raises UserError naming layouts that fit when `world_size` is another."""
    layout = Layout(config.roles.client_ranks, config.roles.server_ranks, config.fed.clients)
    if world_size is not None and world_size != layout.world_size:
        if world_size < 3:
            fit = "the smallest layout has 3 ranks: one client, one server, one aggregator"
        else:
            servers = min(layout.server_rank_count, (world_size - 1) // 2)  # none without a client rank
            clients = world_size - 1 - servers
            fit = f"with {world_size} ranks, set roles.client_ranks={clients} roles.server_ranks={servers}"
        raise UserError(
            f"started with {world_size} ranks, but roles.client_ranks={layout.client_rank_count} and "
            f"roles.server_ranks={layout.server_rank_count} need {layout.world_size} with the aggregator: {fit}"
        )
    return layout
