"""What a client rank gives to the averaging of adapters, and goes on from: the mean over all clients."""

from torch import Tensor

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.comm.layer_mean import LayerMean
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.models.merging import MergedWeights
from splitcom_dist.roles.averaging import end_of_client
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.roster import Roster
from splitcom_dist.state import State, Stateful, facts, gathered, read_facts, spread


class MeanShare:
    """Those of this rank's clients that have trained since the last mean, each weighted by its target tokens."""

    def __init__(
        self,
        context: Context,
        clients: Roster[LogicalClient],
        start: Tensor,
        ranks: Ranks,
        shared: LayerMean | None,
        merged: MergedWeights | None = None,
    ) -> None:
        """`start` (n,) is the adapter before training, of which clients hold what their `ranks` allow; blocks that
        servers train too, which `shared` averages, are its end. Where averages are merged, `merged` takes them in."""
        self.mean = start  # the newest one, from which everybody goes on who has not trained since
        self.weights: dict[int, int] = {}  # target tokens of those who have, by client
        self._clients = clients
        self._ranks = ranks
        self._merged = merged
        self._end = end_of_client(context, start, ranks, shared, merged)

    def bring_up_to_date(self, client: LogicalClient) -> None:
        """A client that has not trained since the last mean begins with it; merged, with new factors and moments."""
        if client.id not in self.weights:
            if self._merged is not None:
                client.optimizer.forget()
            unflatten_into(self._ranks.share(self.mean[: client.elements], client.id), client.adapter)

    def add(self, number: int, targets: int) -> None:
        """A client has trained on so many target tokens."""
        self.weights[number] = self.weights.get(number, 0) + targets

    def average(self, step: int) -> tuple[float, int]:
        """Take part in the averaging after a step; returns the total weight and the bytes handed over."""
        mean, total, size = self._end.mean(self.weights, self._adapter_of, step)
        self.mean = self._ranks.kept(mean, self.mean) if total else self.mean
        self.weights.clear()
        return total, size

    def _adapter_of(self, number: int) -> Tensor:
        """The adapter (n,) of a client that has trained, in memory or parked."""
        client = self._clients.get(number)
        return self._clients.peek(number)["adapter"] if client is None else flatten(client.adapter)

    def state(self) -> State:
        parts = gathered(self._memory)
        return {**parts, "mean": self.mean, "facts": facts({"weights": self.weights})}

    def load(self, state: State) -> None:
        spread(state, self._memory)
        self.mean = state["mean"].clone()
        self.weights = {int(number): weight for number, weight in read_facts(state["facts"])["weights"].items()}

    @property
    def _memory(self) -> dict[str, Stateful]:
        merged = {} if self._merged is None else {"merged": self._merged}
        return {"averaging": self._end, **merged}
