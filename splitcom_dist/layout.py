"""Which rank plays which role, and which logical clients live where: a pure function of the configuration."""

from collections.abc import Iterable
from dataclasses import dataclass

from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError

MANY = 16  # clients of one rank


@dataclass(frozen=True)
class Layout:
    """Ranks 0..C-1 are clients, the next S x K the servers with K shards each, the last one the aggregator.

    Of the shards of a server the first is its leader: it has the edges to clients and speaks for all.
    """

    client_rank_count: int
    server_rank_count: int
    clients: int  # logical clients
    server_shards: int = 1  # ranks that share the frozen weights of one server's body

    @property
    def world_size(self) -> int:
        return self.client_rank_count + self.server_rank_count * self.server_shards + 1

    @property
    def client_ranks(self) -> range:
        return range(self.client_rank_count)

    @property
    def server_ranks(self) -> range:
        """The leaders of all servers."""
        return self.body_ranks[:: self.server_shards]

    @property
    def body_ranks(self) -> range:
        """Every shard of every server."""
        return range(self.client_rank_count, self.world_size - 1)

    def shards_of(self, server: int) -> range:
        """The ranks of a server, its leader `server` first."""
        return range(server, server + self.server_shards)

    def leader_of(self, rank: int) -> int:
        """The leader of the server that a body rank is a shard of."""
        return self.server_ranks[self.body_ranks.index(rank) // self.server_shards]

    @property
    def first_server(self) -> int:
        """The server that speaks for all where they hold the same: adapter, progress, the row of a whole step."""
        return self.server_ranks[0]

    @property
    def aggregator_rank(self) -> int:
        return self.world_size - 1

    def role_of(self, rank: int) -> str:
        """client, server, shard (of a server, behind its leader) or aggregator."""
        if rank in self.client_ranks:
            return "client"
        if rank == self.aggregator_rank:
            return "aggregator"
        return "server" if rank in self.server_ranks else "shard"

    def name_of(self, rank: int) -> str:
        """The rank as errors and tables call it: `rank 1 (client 1,4)`, `rank 4 (server 0, shard 1)`.

        Of very many clients not every one is named.
        """
        role = self.role_of(rank)
        if role == "client":
            names = [*map(str, self.clients_of(rank))]
            role += " " + ",".join(names if len(names) <= MANY else [*names[:3], "..", names[-1]])
        elif self.server_shards > 1 and rank in self.body_ranks:
            server, shard = divmod(self.body_ranks.index(rank), self.server_shards)
            role = f"server {server}, shard {shard}"
        return f"rank {rank} ({role})"

    def one_of(self, ranks: Iterable[int]) -> str:
        """Names of ranks of which one is meant: `rank 3 (server) or rank 4 (server)`."""
        return " or ".join(map(self.name_of, ranks))

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
    roles = config.roles
    layout = Layout(roles.client_ranks, roles.server_ranks, config.fed.clients, roles.server_shards)
    if world_size is not None and world_size != layout.world_size:
        asked = " and ".join(_keys(layout, roles.client_ranks, roles.server_ranks, roles.server_shards))
        raise UserError(
            f"started with {world_size} ranks, but {asked} need {layout.world_size} with the aggregator: "
            f"{_fitting(layout, world_size)}"
        )
    return layout


def _fitting(layout: Layout, world_size: int) -> str:
    """A layout for so many ranks, as near to the asked one as it goes."""
    if world_size < 3:
        return "the smallest layout has 3 ranks: one client, one server, one aggregator"
    shards = min(layout.server_shards, world_size - 2)
    servers = min(layout.server_rank_count, (world_size - 1) // (1 + shards))  # none without a client rank
    return f"with {world_size} ranks, set {' '.join(_keys(layout, world_size - 1 - servers * shards, servers, shards))}"


def _keys(layout: Layout, clients: int, servers: int, shards: int) -> list[str]:
    """The layout's keys; that of shards only where it has been set."""
    keys = [f"roles.client_ranks={clients}", f"roles.server_ranks={servers}"]
    return [*keys, f"roles.server_shards={shards}"] if layout.server_shards > 1 else keys
