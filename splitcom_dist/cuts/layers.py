"""The cut layer of each logical client, and who trains which block."""

from collections.abc import Iterable, Mapping, Sequence

from splitcom_dist.config.implied import cuts_move
from splitcom_dist.config.schema import Config
from splitcom_dist.state import State, facts, read_facts


class Cuts:
    """A client with cut c trains blocks 0..c-1, its server those behind.

    Blocks between the shallowest and the deepest cut that any client may have are shared: clients that are cut behind
    such a block train it, and the server trains a copy for the others. Where cuts move, every rank holds the shared
    blocks, whoever trains them.
    """

    def __init__(self, of_clients: Sequence[int], shallowest: int | None = None, deepest: int | None = None) -> None:
        """Cuts that never move need no bounds: they are their own."""
        self.of_clients = tuple(of_clients)
        self.move_about = shallowest is not None
        self.shallowest = min(self.of_clients) if shallowest is None else shallowest
        self.deepest = max(self.of_clients) if deepest is None else deepest

    def of(self, client: int) -> int:
        return self.of_clients[client]

    def move(self, moves: Mapping[int, int]) -> None:
        """Cut these clients elsewhere from now on."""
        self.of_clients = tuple(moves.get(client, cut) for client, cut in enumerate(self.of_clients))

    @property
    def are_mixed(self) -> bool:
        """Whether they differ, or may come to."""
        return self.shallowest < self.deepest

    @property
    def shared(self) -> range:
        """Blocks that both clients and servers train; none where all cuts are equal."""
        return range(self.shallowest, self.deepest)

    def deepest_of(self, clients: Iterable[int]) -> int:
        """The number of blocks that a rank with these clients holds."""
        return self.deepest if self.move_about else max(map(self.of, clients))

    def shared_by(self, client: int) -> int:
        """How many of the shared blocks a client trains: the first ones."""
        return self.of(client) - self.shallowest

    def trained_by_servers(self, targets: Mapping[int, int]) -> list[int]:
        """For each shared block the target tokens of those who leave it to their server, given each client's."""
        return [sum(count for client, count in targets.items() if block >= self.of(client)) for block in self.shared]

    def state(self) -> State:
        return {"facts": facts({"of_clients": self.of_clients})}

    def load(self, state: State) -> None:
        self.of_clients = tuple(read_facts(state["facts"])["of_clients"])


def client_cuts(config: Config) -> Cuts:
    """At the start: `fed.cut_layers`, or `model.cut_layer` for every client."""
    cuts = config.fed.cut_layers or [config.model.cut_layer] * config.fed.clients
    if cuts_move(config):
        return Cuts(cuts, config.fed.cuts.shallowest, config.fed.cuts.deepest)
    return Cuts(cuts)
