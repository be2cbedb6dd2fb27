"""Writers of a run's curves in a process of their own, so that no server of theirs holds up or ends training."""

import logging
import subprocess
import sys
from collections.abc import Sequence

from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.watch.writers import packages_of

LOOK_SECONDS = 5.0  # between two looks at the logs
WAIT_SECONDS = 60.0  # at the end of the run, for the last figures to be written

log = logging.getLogger(__name__)


class Curves:
    """A `splitcom watch` that writes; it ends by itself after the run. `process` None: nobody asked for any."""

    def __init__(self, process: "subprocess.Popen[bytes] | None") -> None:
        self._process = process

    def wait(self) -> None:
        """Until it has written the end of a finished run. What goes wrong with it is no mistake of the run's."""
        if self._process is None:
            return
        try:
            code = self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
            self._process.kill()
        if code != 0:
            log.warning(
                "curves may be incomplete (code %s), see watch.log; `splitcom watch --write` does it anew", code
            )


def writing_beside(names: Sequence[str], directory: RunDirectory) -> Curves:
    """Start writing for telemetry.writers `names`. UserError if a package is missing."""
    if not names:
        return Curves(None)
    packages_of(names)
    command = [sys.executable, "-m", "splitcom_dist", "watch", str(directory.root)]
    command += ["--write", ",".join(names), "--seconds", str(LOOK_SECONDS)]
    with (directory.root / "log" / "watch.log").open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    return Curves(process)
