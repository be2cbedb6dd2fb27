"""How a rank computes: with how many threads, and with the memory of the step before."""

import os

import torch

from splitcom_dist.heap import keep_freed_memory
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place


def prepare_computing(threads: int, place: Place, layout: Layout) -> None:
    """For runs, and for profiles, which foretell them: with so many threads, or with this rank's share if that is 0."""
    keep_freed_memory()
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
