"""Cuts that make a step short (ours): no client computes longer than the step is worth waiting for.

A deeper cut costs its client time and saves its server some. For every time limit each client is cut as deep as its
limit allows, and of these choices the one is taken whose step is foreseen to be the shortest: with a limit for each
cut of each client that is all there are.
"""

from collections.abc import Mapping

from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.measured import Measured
from splitcom_dist.cuts.work import TurnTime, Work
from splitcom_dist.layout import Layout
from splitcom_dist.plan.steps import ClientRank, Course, ServerRank
from splitcom_dist.state import State, facts, read_facts

LIMITS = 64  # time limits tried; with many clients not each one's
STEPS = 3  # foreseen: from one to the next, clients compute while the server serves others


class BalanceTime:
    """Moves once the step would be shorter by the share `gain`: every move makes the links begin afresh."""

    def __init__(self, gain: float, work: Work, layout: Layout) -> None:
        self._gain = gain
        self._work = work
        self._layout = layout
        self._times: dict[int, TurnTime] = {}  # by client, of all rounds so far

    def decide(self, cuts: Cuts, measured: Mapping[int, Measured]) -> dict[int, tuple[int, str]]:
        for client, each in measured.items():
            newer = TurnTime.measured(self._work, each, cuts.of(client))
            self._times[client] = self._times[client].blended(newer) if client in self._times else newer
        times = self._times
        now = {client: cuts.of(client) for client in times}
        choices = self.choices(times, cuts)
        if not choices:
            return {}
        before = self.step_seconds(now, times)
        after, best = min(((self.step_seconds(choice, times), choice) for choice in choices), key=lambda pair: pair[0])
        if after > (1 - self._gain) * before:
            return {}
        reason = f"a step of {before:.3f} s is foreseen to last {after:.3f} s"
        return {client: (cut, reason) for client, cut in best.items()}

    def choices(self, times: Mapping[int, TurnTime], cuts: Cuts) -> list[dict[int, int]]:
        """The cuts of all clients that are compared, one choice for each time limit."""
        return [self._within(limit, times, cuts) for limit in self._limits(times, cuts)]

    def step_seconds(self, cuts: Mapping[int, int], times: Mapping[int, TurnTime]) -> float:
        """Foreseen length of a step in which these clients have a turn, cut like this."""
        ranks = sorted({self._layout.rank_of(client) for client in cuts})
        turns = {rank: [client for client in cuts if self._layout.rank_of(client) == rank] for rank in ranks}
        clients = [self._client_rank([(times[client], cuts[client]) for client in turns[rank]]) for rank in ranks]
        servers = []
        for server in sorted({self._layout.server_of(rank) for rank in ranks}):
            served = [rank for rank in ranks if self._layout.server_of(rank) == server]
            each = [times[client].at_server(cuts[client]) for rank in served for client in turns[rank]]
            servers.append(ServerRank([ranks.index(rank) for rank in served], sum(each) / len(each), optimizer=0.0))
        return Course(clients, servers, STEPS, round_steps=STEPS, adapter_bytes=0.0).seconds() / STEPS

    @staticmethod
    def _client_rank(turns: list[tuple[TurnTime, int]]) -> ClientRank:
        """Of a mean turn; half of the computing is before the server's, since weights are frozen and their
        gradients are not computed. What is sent is given in seconds."""
        computing = sum(time.computing_at(cut) for time, cut in turns) / len(turns)
        sending = sum(time.at_client(cut) for time, cut in turns) / len(turns) - computing
        half = computing / 2
        return ClientRank(len(turns), half, half, sending, 0.0, up=1.0, down=1.0, latency=0.0)

    @staticmethod
    def _limits(times: Mapping[int, TurnTime], cuts: Cuts) -> list[float]:
        every = {time.at_client(cut) for time in times.values() for cut in range(cuts.shallowest, cuts.deepest + 1)}
        limits = sorted(every)
        return limits if len(limits) <= LIMITS else limits[:: -(-len(limits) // LIMITS)]

    @staticmethod
    def _within(limit: float, times: Mapping[int, TurnTime], cuts: Cuts) -> dict[int, int]:
        """The deepest cut of each client at which its turn is within the limit, or else the shallowest."""
        chosen = {}
        for client, time in times.items():
            fitting = [cut for cut in range(cuts.shallowest, cuts.deepest + 1) if time.at_client(cut) <= limit]
            chosen[client] = max(fitting, default=cuts.shallowest)
        return chosen

    def state(self) -> State:
        return {"facts": facts({str(client): time.seconds for client, time in self._times.items()})}

    def load(self, state: State) -> None:
        told = read_facts(state["facts"])
        self._times = {int(client): TurnTime(self._work, *seconds) for client, seconds in told.items()}
