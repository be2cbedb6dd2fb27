"""Starting a client rank's process anew: by itself, when it finds that the others have lost it, or by its launcher."""

import fcntl
import os
import sys
from contextlib import suppress
from typing import NoReturn

from splitcom_dist.place import Place

ANEW = "SPLITCOM_ANEW"  # the variable of a process that was started anew


def command() -> list[str]:
    """The command line of this process, which its ranks share."""
    return [sys.executable, "-m", "splitcom_dist", *sys.argv[1:]]


def environment(place: Place, address: str, port: int) -> dict[str, str]:
    """What makes a new process that rank; the store it meets the others at is kept by who keeps it already."""
    return {
        **os.environ,
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        ANEW: "1",
    }


def start_anew(place: Place, address: str, port: int) -> NoReturn:
    """Become a new process with this one's number, so that its launcher sees no end of it; from any thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    for name in os.listdir("/proc/self/fd"):  # Gloo's sockets would stay open, and peers would take them for us
        if int(name) > 2:
            with suppress(OSError):
                fcntl.fcntl(int(name), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    os.execve(sys.executable, command(), environment(place, address, port))
