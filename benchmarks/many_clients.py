"""How much memory a logical client takes while it waits: resident sets of 4 ranks that serve 1,000 of them.

    python benchmarks/many_clients.py [--clients 1000] [--rounds 60] [--share 0.02]

2 client ranks, a server and an aggregator, embedded model, 2 texts a client; every round draws a share of the clients.
One run keeps 8 clients a rank in memory and parks the others, another keeps all. Every rank notes its resident set
after every step and how many clients it knows; growth is the slope of a line through these, after a warm-up. Prints
and writes benchmarks/results/many_clients.md. Exit code 1 if the two runs do not send the same bytes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from splitcom_dist.checkpoints.course import Course
from splitcom_dist.cli import main as splitcom
from splitcom_dist.roles.client import ClientRole

RESULTS = Path(__file__).parent / "results" / "many_clients.md"
WARM_UP = 12  # rounds that no slope counts
RESIDENT = 8
RANKS = ("client rank 0", "client rank 1", "server", "aggregator")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--share", type=float, default=0.02)
    options = parser.parse_args()
    tables, links, own = [], [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for resident in (RESIDENT, 0):
            folder = Path(scratch) / str(resident)
            folder.mkdir()
            started = time.monotonic()
            run(settings(options, resident), folder)
            links.append(json.loads((folder / "run" / "summary.json").read_text())["links"])
            notes = notes_in(folder)
            own = max(note["own"] for rank in notes for note in rank)
            tables.append(table(resident, notes, own, time.monotonic() - started))
    text = "\n".join([head(options, own), *tables])
    print(text)
    RESULTS.write_text(text)
    sys.exit(int(links[0] != links[1]))


def settings(options: argparse.Namespace, resident: int) -> list[str]:
    values = {
        "data.train_samples": 2 * options.clients,
        "data.validation_samples": 20,
        "data.max_length": 100,
        "codec": "splitcom",
        "roles.client_ranks": 2,
        "fed.clients": options.clients,
        "fed.participation": options.share,
        "fed.resident": resident,
        "train.epochs": options.rounds,  # a client's 2 texts are one batch: an epoch is a step and a round
        "train.batch_size": 2,
        "eval.every": options.rounds,
        "telemetry.progress": "false",
        "runtime.threads": 1,
    }
    return [f"{key}={value}" for key, value in values.items()]


def run(overrides: list[str], folder: Path) -> None:
    """`splitcom train` in a process forked from this one, which every rank is a fork of."""
    process = multiprocessing.get_context("fork").Process(target=watched_run, args=(overrides, folder))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{' '.join(overrides)}: exit code {process.exitcode}")


def watched_run(overrides: list[str], folder: Path) -> None:
    original = Course.steps

    def steps(self: Course, role: Any) -> Iterator[int]:
        with (folder / f"rank_{self.world.rank}.jsonl").open("a") as file:
            for step in original(self, role):
                yield step
                note = {"step": step, "resident": resident_bytes(), "clients": clients_of(role), "own": own_bytes(role)}
                file.write(json.dumps(note) + "\n")

    Course.steps = steps  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(splitcom(["train", *overrides, "--out", str(folder / "run")]))


def resident_bytes() -> int:
    """Of this process, now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def clients_of(role: Any) -> int:
    """How many clients a rank has served so far."""
    return len(role.clients.known) if hasattr(role, "clients") else 0


def own_bytes(role: Any) -> int:
    """Adapter and optimizer of one client."""
    known = role.clients.known if isinstance(role, ClientRole) else []
    if not known:
        return 0
    state = role.clients.peek(known[0])
    counted = ("adapter.", "optimizer.")
    return sum(part.nbytes for name, part in state.items() if name.startswith(counted) and "facts" not in name)


def notes_in(folder: Path) -> list[list[dict[str, int]]]:
    """What every rank has noted, step by step."""
    files = [folder / f"rank_{rank}.jsonl" for rank in range(len(RANKS))]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def table(resident: int, notes: list[list[dict[str, int]]], own: int, seconds: float) -> str:
    """One run; `own` are the bytes of a client's adapter and optimizer."""
    lines = [
        f"## {'All clients' if resident == 0 else f'{resident} clients a rank'} in memory\n",
        f"{seconds:.0f} s. Growth in bytes an idle client, and as a share of 3 x (adapter + optimizer).\n",
        "| rank | clients served | resident, round 1 | after the warm-up | at the end | growth | share of the limit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rank in zip(RANKS, notes, strict=True):
        sizes, clients = (np.array([note[key] for note in rank[WARM_UP:]]) for key in ("resident", "clients"))
        size = f"{rank[0]['resident'] / 1e6:.1f} MB | {sizes[0] / 1e6:.1f} MB | {sizes[-1] / 1e6:.1f} MB"
        if clients[-1]:
            growth = float(np.polyfit(clients, sizes, 1)[0])
            lines.append(f"| {name} | {clients[-1]} | {size} | {growth:,.0f} | {100 * growth / (3 * own):.1f} % |")
        else:
            lines.append(f"| {name} | - | {size} | - | - |")
    return "\n".join([*lines, ""])


def head(options: argparse.Namespace, own: int) -> str:
    return "\n".join(
        [
            "# Many logical clients on 4 ranks",
            "",
            f"{options.clients:,} clients on 2 client ranks, a server and an aggregator; embedded model, codec "
            f"splitcom, 2 texts a client, AdamW; {options.rounds} rounds that draw {100 * options.share:g} % of the "
            f"clients. Adapter and optimizer of a client are {own:,} bytes; three times that is the limit for what an "
            f"idle client may take. Torch {version('torch')}, {platform.machine()}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
