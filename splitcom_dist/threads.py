"""How many threads a rank computes with."""

import os

from splitcom_dist.layout import Layout
from splitcom_dist.place import Place


def fair_threads(place: Place, layout: Layout) -> int:
    """This rank's share of its machine's cores.

    A client and its server take turns, and the aggregator works while both wait. So clients share the cores among each
    other, and so do servers with their shards: of several clients one computes while the server serves another, but
    what a server computes, it computes for one after the other.
    """
    cores = len(os.sched_getaffinity(0))
    alike = layout.client_ranks if place.rank in layout.client_ranks else layout.body_ranks
    return max(1, cores // max(1, min(place.local_world_size, len(alike))))
