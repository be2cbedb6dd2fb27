"""Takes the place of `splitcom` in the tests of the scripts: a job with the same signals, exit codes and arguments.

It notes each rank in DIR/ranks.jsonl. `seconds=N` is how long it trains; when it is told to stop, every rank waits for
the others, saves and ends with 75; started again, it goes on with what was saved, and has finished.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

TOGETHER_SECONDS = 5.0


def main(arguments: list[str]) -> int:
    """As `splitcom` with these arguments; returns the exit code."""
    directory = Path(arguments[arguments.index("--out") + 1] if "--out" in arguments else arguments[1])
    caught: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: caught.append(number))
    names = ("PROCID", "NTASKS", "JOB_ID", "RESTART_COUNT", "CPUS_PER_TASK")
    facts: dict[str, object] = {name: os.environ.get(f"SLURM_{name}") for name in names}
    facts |= {"node": os.environ["SLURMD_NODENAME"], "arguments": arguments}
    with (directory / "ranks.jsonl").open("a") as file:
        file.write(json.dumps(facts) + "\n")
    settings = dict(text.split("=", 1) for text in arguments if "=" in text)
    saved = directory / "saved"
    until = time.monotonic() + (0 if saved.is_dir() else float(settings.get("seconds", 0)))
    while time.monotonic() < until and not caught:
        time.sleep(0.05)
    if not caught:
        return 0
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    saved.mkdir(exist_ok=True)
    (saved / os.environ["SLURM_PROCID"]).touch()
    give_up = time.monotonic() + TOGETHER_SECONDS
    while len(list(saved.iterdir())) < int(os.environ["SLURM_NTASKS"]) and time.monotonic() < give_up:
        time.sleep(0.02)
    return 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
