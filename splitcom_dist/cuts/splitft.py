"""The adaptive cuts of SplitFT (arXiv 2604.26388): by a client's resources and by its model's performance.

Told in the paper: a client that does better than the mean takes more layers, one that does worse takes fewer, and a
weight gamma sets how fast. The formula is our reconstruction: a wish w for each client, which begins at its cut, moves
by gamma ((T - t) / T + (L - l) / L) after each round, where t is the time of the client's own part of a turn, l the
loss of its batches in the round, before they were trained on, and T and L are the means over clients. The cut is the
wish, rounded.
"""

from collections.abc import Mapping
from statistics import fmean

from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.measured import Measured
from splitcom_dist.state import State, facts, read_facts


class SplitFT:
    def __init__(self, gamma: float) -> None:
        self._gamma = gamma
        self._wishes: dict[int, float] = {}

    def decide(self, cuts: Cuts, measured: Mapping[int, Measured]) -> dict[int, tuple[int, str]]:
        times = {client: (each.computing + each.sending) / each.turns for client, each in measured.items()}
        losses = {client: each.loss / each.targets for client, each in measured.items()}
        if not measured:
            return {}
        decided, time, loss = {}, fmean(times.values()), fmean(losses.values())
        for client in measured:
            faster, better = (time - times[client]) / time, (loss - losses[client]) / loss
            wish = self._wishes.get(client, cuts.of(client)) + self._gamma * (faster + better)
            self._wishes[client] = min(max(wish, cuts.shallowest), cuts.deepest)
            reason = (
                f"{times[client]:.3f} s a turn where {time:.3f} s is the mean, loss {losses[client]:.3f} where "
                f"{loss:.3f} is"
            )
            decided[client] = round(self._wishes[client]), reason
        return decided

    def state(self) -> State:
        return {"facts": facts({str(client): wish for client, wish in self._wishes.items()})}

    def load(self, state: State) -> None:
        self._wishes = {int(client): wish for client, wish in read_facts(state["facts"]).items()}
