"""What a process does that must not go on as it is, from whatever thread finds it out."""

import os
import sys
from threading import Timer
from typing import NoReturn

from splitcom_dist.presence.anew import start_anew
from splitcom_dist.presence.pulse import Fate
from splitcom_dist.world import World

CODE = 2
REPORT_SECONDS = 5.0


def end_by_fate(world: World, returns: int, fate: Fate, silent: list[int]) -> NoReturn:
    """A client rank that the others have lost, or that has lost them, starts anew, `returns` times at most; else this
    process ends, and of all that end so one says why."""
    name, long = world.layout.name_of(world.rank), f"for longer than {world.silence_seconds:g} s"
    away = fate in (Fate.LOST, Fate.CUT_OFF) and world.rank in world.layout.client_ranks
    if away and world.incarnation < returns:
        start_anew(world.place, *world.meeting)
    # A store that does not answer must not keep us.
    Timer(REPORT_SECONDS, os._exit, (CODE,)).start()
    line = None
    if away:
        line = f"{name} was lost once more and stays away: fed.returns={returns} is used up"
    elif fate is Fate.CUT_OFF and world.report_failure_apart():
        line = f"{name} cannot reach the rendezvous store, or was stopped, {long}"
    elif fate is Fate.ALONE and world.report_failure_apart():
        names = ", ".join(map(world.layout.name_of, silent))
        line = f"{names} was silent {long}: no run goes on without it"
    if line:
        print(f"error: {line}", file=sys.stderr, flush=True)
    os._exit(CODE)
