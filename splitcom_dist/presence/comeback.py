"""The side of a client rank that was lost: it asks to be admitted, and waits for its server to serve it again."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.link import Edge
from splitcom_dist.errors import RunOver
from splitcom_dist.world import World


@dataclass(frozen=True)
class Welcome:
    """From which step on this rank takes part again, the mean adapter (n,) then, and the last verdict."""

    step: int
    mean: Tensor
    verdict: str


def ask_for_welcome(world: World, elements: int) -> Welcome:
    """Wait until the aggregator admits this rank; `elements` of an adapter. Raises RunOver, PeerLost."""
    own = f"{world.rank}/{world.incarnation}"
    world.membership.ask(world.incarnation)

    def ask() -> str | None:
        if (code := world.heard("over")) is not None:
            raise RunOver(int(code))
        return world.heard(f"welcome/{own}")

    aggregator = world.layout.aggregator_rank
    told = json.loads(world.wait_until(ask, [aggregator], "a welcome"))
    mean = torch.empty(elements)
    with naming(world.layout.name_of(aggregator), [aggregator], "a welcome"):
        world.groups.meet_at_spoke(world.rank, world.incarnation).receive(mean)
    return Welcome(told["step"], mean, told["verdict"])


class Attendance:
    """Whether the server serves this client rank in a step: always, but for one that has come back and still waits."""

    def __init__(self, world: World, edge: Edge) -> None:
        self._world = world
        self._edge = edge
        self._first = -1 if world.comes_back else 0  # step, -1 while it is not known

    def attends(self, step: int) -> bool:
        """Called once a step, in order; connects the edge when the server has said from which step on it serves."""
        if self._first < 0:
            server = self._world.layout.server_of(self._world.rank)
            self._first = self._world.wait_until(lambda: self._served_from(server, step), [server], f"step {step}")
            if self._first >= 0:
                self._world.groups.meet_at_edge(self._world.rank, self._world.incarnation)
                self._edge.connect(self._world.transport(self._world.rank))
        return 0 <= self._first <= step

    def _served_from(self, server: int, step: int) -> int | None:
        """-1 if the server has begun this step without us. It says whom it serves before it says that it has begun."""
        begun = int(self._world.heard(f"serving/{server}") or -1)
        served = self._world.heard(f"served/{self._world.rank}/{self._world.incarnation}")
        if served is not None:
            return int(served)
        return -1 if begun >= step else None
