"""An extension that makes every rank of a run note when each step began, and what the process had used by then.

`marked_run` trains with it and reads the notes. It is named in `extensions`, so it runs in every rank.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from splitcom_dist.checkpoints.course import Course
from splitcom_dist.state import Stateful

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "SPLITCOM_STEP_MARKS"  # the variable that names where notes go


@dataclass(frozen=True)
class Mark:
    """What a rank notes when a step begins, and once more after the last one."""

    step: int
    clock: float  # seconds since the epoch
    cpu: float  # seconds, of all threads of the process
    peak: int  # bytes resident, at most so far
    held: dict[str, int] = field(default_factory=dict)  # bytes of the role's state by tensor; with the last note only


def mark(step: int) -> Mark:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Mark(step, time.time(), used.ru_utime + used.ru_stime, peak_bytes())


def peak_bytes() -> int:
    """The largest resident set of this process so far, with what it shares with the process it is a fork of."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def noting_steps(folder: Path) -> None:
    """From now on every walk of a run's steps in this process is noted in the folder, in a file a rank."""
    original = Course.steps

    def steps(self: Course, role: Stateful) -> Iterator[int]:
        with (folder / f"rank_{self.world.rank}.jsonl").open("a", buffering=1) as file:
            for step in original(self, role):
                file.write(json.dumps(asdict(mark(step))) + "\n")
                yield step
            last = asdict(mark(self.schedule.total_steps))
            last["held"] = {name: tensor.nbytes for name, tensor in role.state().items()}
            file.write(json.dumps(last) + "\n")

    Course.steps = steps  # type: ignore[method-assign]


def marked_run(
    overrides: Sequence[str],
    scratch: Path,
    environment: Mapping[str, str] | None = None,
    extensions: Sequence[Path] = (),
) -> tuple[float, dict[int, list[Mark]]]:
    """Train in `scratch`/run, with more extensions; when the command was started, and what each rank noted. SystemExit
    if it fails."""
    marks = scratch / "marks"
    marks.mkdir(parents=True)
    command = [sys.executable, "-m", "splitcom_dist", "train", *overrides, "telemetry.progress=false"]
    files = ",".join(map(str, [Path(__file__).resolve(), *extensions]))
    command += [f"extensions=[{files}]", "--out", str(scratch / "run")]
    started = time.time()
    # In ROOT, so that a copy of the repository trains with its own package, whichever is installed.
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {}), FOLDER: str(marks)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    noted = {
        int(file.stem.removeprefix("rank_")): [Mark(**json.loads(line)) for line in file.read_text().splitlines()]
        for file in sorted(marks.iterdir())
    }
    return started, noted


if FOLDER in os.environ:
    noting_steps(Path(os.environ[FOLDER]))
