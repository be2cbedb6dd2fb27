"""Kill and stop client ranks at random while runs go on without them: does any run hang, break, or learn less?

    python benchmarks/chaos.py --wikitext FILE   # WikiText-2's text, .txt or .txt.gz

Three methods, each run once undisturbed and once under a storm: again and again a client rank that takes part is killed
(SIGKILL), stopped for longer than the timeout, or stopped for less than it; its process comes back each time. Checked:
every run ends by itself with exit code 0, no packet was refused, what every rank counted is what its log holds, final
adapters are finite, and the perplexity is at most 1 % above that of the undisturbed run, though the text of a client
that is away is not trained on. It may be below: gates that skip gradients train on stale ones, and a client that comes
back begins with fresh references. Prints and writes benchmarks/results/chaos.md. Exit code 1 if anything is amiss.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read, read_kept
from splitcom_dist.telemetry.ledger import SENT, named_totals

RESULTS = Path(__file__).parent / "results" / "chaos.md"
CLIENTS, SERVER, RANKS = 6, 6, 8
TIMEOUT = 5.0  # seconds
PAUSE = 11.0  # seconds between two faults, on average
NOTICED = 1.0  # seconds in which a server that waits has noticed
FORGOTTEN = 40.0  # seconds after which a rank that was struck twice before it was back counts as any other
HANGS = 3600.0  # seconds after which a run counts as hung
SETTINGS: dict[str, Any] = {
    "data.name": "wikitext2",
    "data.max_length": 64,
    "data.overlong": "truncate",
    "data.train_samples": 64,  # articles
    "data.validation_samples": 3,
    "eval.every": 100,
    "roles.client_ranks": CLIENTS,
    "fed.clients": CLIENTS,
    "fed.every": 1,  # a client that is killed takes what it has learnt since the last averaging with it
    "fed.lost": "go_on",
    "fed.returns": 1000,
    "train.lr": 5e-4,
    "telemetry.progress": "false",
    "runtime.timeout_seconds": TIMEOUT,
    "runtime.threads": 1,
}
METHODS = {
    "SplitLoRA": ["codec=none"],
    "video": ["codec=video"],
    "U-shape, all INT8": ["shape=u_shape", "codec=splitcom_all_int8"],
}
SHORT = "stopped, short"  # twice as frequent as the others
KINDS = {"killed": 0.0, "stopped, long": 1.5, SHORT: 0.3}  # and for how many timeouts


class Run:
    """`splitcom train` in a process of its own; its ranks are its children."""

    def __init__(self, overrides: list[str], settings: Mapping[str, object], out: Path) -> None:
        self.out = out
        self.first: list[int] = []
        self.struck: dict[int, tuple[float, int]] = {}  # by rank: away until then, and until it is back so often
        told = [f"{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "splitcom_dist", "train", *told, *overrides]
        self.process = subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def children(self) -> list[int]:
        return list(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def pid_of(self, rank: int) -> int:
        """Of the process that plays this rank now: one started again knows its rank, the first ones are in order."""
        if not self.first:
            self.first = self.children()
            assert len(self.first) == RANKS
        again = [pid for pid in self.children() if f"\0RANK={rank}\0".encode() in _read(f"/proc/{pid}/environ")]
        return max([self.first[rank], *again])

    def present(self) -> list[int]:
        """Client ranks that take part as far as one can know: the server tells of those that are lost no sooner than
        at its next step, so those that were struck count as away until it has taken them back."""
        lost, back = self.times("lost"), self.times("back")
        struck = self.struck.items()
        now = time.monotonic()
        away = {
            rank
            for rank, (until, returns) in struck
            if now < until or (back[rank] < returns and now < until + FORGOTTEN)
        }
        return [rank for rank in range(CLIENTS) if lost[rank] == back[rank] and rank not in away]

    def times(self, kind: str) -> Counter[int]:
        """How often this has happened to each client rank, as the server tells."""
        rows = read(self.out / "telemetry" / f"rank_{SERVER:05d}.h5", "events")
        return Counter(int(row["text"].split()[1]) for row in rows if row["kind"] == kind.encode())

    def batches(self) -> int:
        """That clients have trained on, together."""
        return int((read(self.out / "telemetry" / f"rank_{SERVER:05d}.h5", "train")["client"] >= 0).sum())

    def strike(self, rank: int, kind: str) -> list[threading.Timer]:
        """Kill or stop a client rank; returns what will wake it."""
        pid, asleep = self.pid_of(rank), KINDS[kind] * TIMEOUT
        returns = self.times("back")[rank] + (kind == "killed")
        self.struck[rank] = time.monotonic() + asleep + NOTICED, returns
        os.kill(pid, signal.SIGSTOP if asleep else signal.SIGKILL)
        if not asleep:
            return []
        wake = threading.Timer(asleep, quietly_continue, (pid,))
        wake.start()
        return [wake]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--faults", type=int, default=100, help="at least so many, over all methods")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    columns = ["method", "killed", "stopped 1.5 timeouts", "stopped 0.3", "lost", "back", "batches kept", "perplexity"]
    columns += ["undisturbed", "change"]
    lines = [f"| {' | '.join([*columns, 'amiss'])} |", f"|---|{'---:|' * (len(columns) - 1)}---|"]
    wrong, total = False, 0
    with tempfile.TemporaryDirectory() as scratch:
        for index, (name, overrides) in enumerate(METHODS.items()):
            whole = SETTINGS | {"train.epochs": options.epochs, "data.path": options.wikitext.resolve()}
            calm, _ = weather(overrides, whole, Path(scratch) / f"{index}_calm", None)
            stormy, faults = weather(overrides, whole, Path(scratch) / f"{index}_storm", rng)
            kept = stormy.batches() / calm.batches()
            amiss = faults_of(calm) + faults_of(stormy)
            total += sum(faults.values())
            after, before = perplexity(stormy), perplexity(calm)
            told = [*(faults[kind] for kind in KINDS), *(stormy.times(kind).total() for kind in ("lost", "back"))]
            values = [f"{100 * kept:.1f} %", f"{after:.2f}", f"{before:.2f}", f"{100 * (after / before - 1):+.2f} %"]
            cells = [name, *map(str, told), *values, "; ".join(amiss) or "nothing"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
            wrong |= bool(amiss) or not after / before - 1 < 0.01
    text = "\n".join([*head(options, total), *lines, ""])
    print(text)
    RESULTS.write_text(text)
    sys.exit(int(wrong or total < options.faults))


def weather(
    overrides: list[str], settings: Mapping[str, object], out: Path, rng: random.Random | None
) -> tuple[Run, Counter[str]]:
    """A whole run, with faults as `rng` draws them, and how many of each kind there were."""
    run, faults = Run(overrides, settings, out), Counter[str]()
    deadline = time.monotonic() + HANGS
    timers: list[threading.Timer] = []
    while run.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5 if rng is None else rng.expovariate(1 / PAUSE))
        if rng is None:
            continue
        with suppress(UserError, OSError, IndexError):  # a log that is being made, a process that has just ended
            present = run.present()
            if len(present) > 2 and len(read(out / "telemetry" / f"rank_{SERVER:05d}.h5", "train")):
                kind, rank = rng.choice([*KINDS, SHORT]), rng.choice(present)
                timers += run.strike(rank, kind)
                faults[kind] += 1
    if run.process.poll() is None:
        run.process.kill()
    for timer in timers:
        timer.cancel()
    return run, faults


def quietly_continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def faults_of(run: Run) -> list[str]:
    """What is wrong with a run that has ended."""
    _, errors = run.process.communicate()
    if run.process.returncode:
        return [f"exit code {run.process.returncode}: {errors.strip()[-200:]}"]
    events = read(run.out / "telemetry" / f"rank_{SERVER:05d}.h5", "events")
    resyncs = int((events["kind"] == b"resync").sum())
    amiss = [f"{resyncs} resyncs"] if resyncs else []
    for rank in range(RANKS):
        path = run.out / "telemetry" / f"rank_{rank:05d}.h5"
        rows = read(path, "traffic")
        counted = sum(counts["wire_bytes"] for counts in named_totals(torch.from_numpy(read_kept(path)[1]))[0].values())
        if counted != rows["wire"][rows["side"] == SENT].sum():
            amiss.append(f"rank {rank} counted {counted} bytes")
    adapter = load_file(run.out / "adapter" / "adapter_model.safetensors")
    return amiss + [name for name, tensor in adapter.items() if not bool(tensor.isfinite().all())]


def perplexity(run: Run) -> float:
    path = run.out / "summary.json"
    return float(json.loads(path.read_text())["ppl"]) if path.is_file() else float("nan")


def head(options: argparse.Namespace, total: int) -> list[str]:
    return [
        "# Chaos",
        "",
        f"{total} faults. Embedded model, {SETTINGS['data.train_samples']} articles of WikiText-2, {options.epochs} "
        f"epochs, {CLIENTS} client ranks, server and aggregator, timeout {TIMEOUT:g} s, a fault every {PAUSE:g} s on "
        "average at a client rank that takes part. Amiss would be: a run that hangs or fails, a refused packet, counts "
        f"that are not those of the logs, adapters that are not finite. Seed {options.seed}, torch {version('torch')}, "
        f"{platform.machine()}.",
        "",
    ]


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


if __name__ == "__main__":
    main()
