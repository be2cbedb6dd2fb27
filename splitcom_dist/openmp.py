"""OpenMP's worker threads between two computations: they spin for a while when their work is done, so that the next
operator finds them awake. A rank that waits for another has no next operator, and the other wants the cores."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from splitcom_dist.config.schema import RolesConfig
from splitcom_dist.place import Place

# Turns for which libgomp's workers spin. As it has it, they do so for milliseconds; with too few they fall asleep
# between two operators.
ALONE, CROWDED = "100000", "10000"
SOFT = 1  # omp_pause_soft: what OpenMP holds comes back with the next operator, settings stay


def choose_spins(roles: RolesConfig, place: Place | None) -> None:
    """How long workers spin in a run with these ranks, at this place or, without one, all on this machine.

    One client and its server take turns, and so do several with a server that takes them together; of those that it
    takes one by one some compute while it serves another, and who spins is in the way. Libgomp reads it once, when
    torch is loaded. GOMP_SPINCOUNT in the environment wins.
    """
    in_turns = roles.client_ranks == 1 or roles.server_batching == "merged"
    alone = in_turns or (place is not None and place.local_world_size == 1)
    os.environ.setdefault("GOMP_SPINCOUNT", ALONE if alone else CROWDED)


def rest_workers() -> bool:
    """End the workers of this thread, if it has any; the next operator starts new ones. Results are the same.

    False where there is no libgomp that can.
    """
    pause = _pause()
    return pause is not None and pause(SOFT) == 0


@cache
def _pause() -> Callable[[int], int] | None:
    """Of the libgomp that torch has brought along: another copy has workers of its own."""
    maps = Path("/proc/self/maps")
    paths = [line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line] if maps.exists() else []
    return getattr(ctypes.CDLL(paths[0]), "omp_pause_resource_all", None) if paths else None
