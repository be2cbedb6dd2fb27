"""How a rank computes: with how many threads, behind whom, and with the memory of the step before."""

import os

import torch

from splitcom_dist.heap import keep_freed_memory
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place

BEHIND = 10  # of niceness: against a thread without, a tenth of a core


def prepare_computing(threads: int, place: Place, layout: Layout) -> None:
    """For runs, and for profiles, which foretell them: with so many threads, or with this rank's share if that is 0.

    From here on this thread, and those that it starts, are as nice as `niceness` has it.
    """
    keep_freed_memory()
    os.nice(niceness(place, layout))
    torch.set_num_threads(threads or fair_threads(place, layout))


def fair_threads(place: Place, layout: Layout) -> int:
    """This rank's share of its machine's cores.

    A client and its server take turns, and the aggregator works while both wait. So clients share the cores among each
    other, and so do servers with their shards: of several clients one computes while the server serves another, but
    what a server computes, it computes for one after the other.
    """
    cores = len(os.sched_getaffinity(0))
    alike = layout.client_ranks if place.rank in layout.client_ranks else layout.body_ranks
    return max(1, cores // max(1, min(place.local_world_size, len(alike))))


def niceness(place: Place, layout: Layout) -> int:
    """By how much this rank lets others on its machine go first.

    Several clients go behind the server beside them, which all of them wait for: its threads wait for each other in
    every operator, so that one that has lost its core to a client keeps all of them. What clients compute meanwhile,
    they compute where it leaves cores idle.
    """
    beside_servers = place.local_world_size == layout.world_size
    several = len(layout.client_ranks) > 1
    return BEHIND if beside_servers and several and place.rank in layout.client_ranks else 0
