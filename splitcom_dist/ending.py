"""How a rank's process ends."""

import os
import sys
from typing import NoReturn

from splitcom_dist.checkpoints.signals import RESUME_ME
from splitcom_dist.comm import mpi_world


def end_process(code: int) -> NoReturn:
    """Leave now: Gloo's threads to peers that are gone must not delay the end."""
    if code in (0, RESUME_ME):  # all ranks leave together
        mpi_world.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
