"""The aggregator's side: it admits who has come back, between two rounds, with the mean that all go on from."""

import json

from torch import Tensor

from splitcom_dist.comm.failures import naming
from splitcom_dist.errors import PeerLost
from splitcom_dist.world import World


def welcome_all(world: World, step: int, mean: Tensor, verdict: str) -> list[int]:
    """Admit the client ranks that ask for it, from `step` on; returns them.

    They are given the newest mean (n,) float32 of the client adapters and the last verdict.
    """
    return [
        rank
        for rank in world.membership.waiting(world.layout.client_ranks)
        if _welcome(world, rank, step, mean, verdict)
    ]


def _welcome(world: World, rank: int, step: int, mean: Tensor, verdict: str) -> bool:
    incarnation = world.membership.asking(rank)
    world.announce(f"welcome/{rank}/{incarnation}", json.dumps({"step": step, "verdict": verdict}))
    try:
        with naming(world.layout.name_of(rank), [rank], "its welcome"):
            world.groups.meet_at_spoke(rank, incarnation).send(mean)
    except PeerLost:  # lost again
        world.membership.lose(rank, incarnation)
        return False
    world.welcome(rank)
    world.membership.admit(rank, incarnation)
    return True
