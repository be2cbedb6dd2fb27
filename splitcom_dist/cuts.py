"""Where each logical client's model is cut, and who trains which block: pure facts of the configuration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from splitcom_dist.config.schema import Config


@dataclass(frozen=True)
class Cuts:
    """The cut layer of each logical client. A client with cut c trains blocks 0..c-1, its server those behind.

    Blocks between the shallowest and the deepest cut are shared: clients that are cut behind such a block train it, and
    the server trains a copy for the others.
    """

    of_clients: tuple[int, ...]

    def of(self, client: int) -> int:
        return self.of_clients[client]

    @property
    def shallowest(self) -> int:
        return min(self.of_clients)

    @property
    def deepest(self) -> int:
        return max(self.of_clients)

    @property
    def are_mixed(self) -> bool:
        return self.shallowest < self.deepest

    @property
    def shared(self) -> range:
        """Blocks that both clients and servers train; none where all cuts are equal."""
        return range(self.shallowest, self.deepest)

    def deepest_of(self, clients: Iterable[int]) -> int:
        """The number of blocks that a rank with these clients holds."""
        return max(map(self.of, clients))

    def shared_by(self, client: int) -> int:
        """How many of the shared blocks a client trains: the first ones."""
        return self.of(client) - self.shallowest

    def trained_by_servers(self, targets: Mapping[int, int]) -> list[int]:
        """For each shared block the target tokens of those who leave it to their server, given each client's."""
        return [sum(count for client, count in targets.items() if block >= self.of(client)) for block in self.shared]


def client_cuts(config: Config) -> Cuts:
    """`fed.cut_layers`, or `model.cut_layer` for every client."""
    return Cuts(tuple(config.fed.cut_layers or [config.model.cut_layer] * config.fed.clients))
