"""This project in benchmarks/peers.py: three client ranks, each a party, and server and aggregator in a fourth."""

import math
import sys
import time
from pathlib import Path

import numpy as np
from peers_job import CLIENTS, SEED, Job, data_settings
from peers_outcome import LIMIT, Course, Outcome, outcome
from peers_parties import CABLE, Parties

from splitcom_dist.telemetry.hdf5 import read as read_table
from splitcom_dist.telemetry.summary import read as read_summary

ROOT = Path(__file__).resolve().parent.parent


def settings(job: Job, codec: str) -> list[str]:
    """What a user writes, one key a line."""
    return [
        f"model.name={job.model}",
        f"model.cut_layer={job.cut_layer}",
        f"lora.rank={job.rank}",
        f"lora.alpha={job.alpha}",
        *data_settings(job),
        f"data.max_length={job.max_length}",
        f"roles.client_ranks={CLIENTS}",
        f"fed.clients={CLIENTS}",
        f"fed.every={job.steps}",
        f"train.epochs={job.epochs}",
        f"train.batch_size={job.batch}",
        f"train.lr={job.lr}",
        "train.schedule=constant",
        "train.max_grad_norm=0",
        f"train.seed={SEED}",
        f"eval.every={job.epochs}",
        f"codec={codec}",
        "runtime.threads=1",
    ]


def run(job: Job, folder: Path, codec: str) -> Outcome:
    clients = [f"client{client}" for client in range(CLIENTS)]
    ranks, out = CLIENTS + 2, folder / "run"
    command = [sys.executable, "-m", "splitcom_dist", "train", *settings(job, codec), "telemetry.progress=false"]
    with Parties([*clients, "server"], folder / "logs") as parties:
        common = {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": parties.address(clients[0]),
            "MASTER_PORT": "29500",
            "GLOO_SOCKET_IFNAME": CABLE,
            "PYTHONPATH": str(ROOT),
        }
        started = time.monotonic()
        places = [*clients, "server", "server"]
        numbers = [
            parties.start(name, [*command, "--out", str(out)], common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, name in enumerate(places)
        ]
        parties.wait(numbers, LIMIT)
        seconds, summary = time.monotonic() - started, read_summary(out / "summary.json")
        return outcome(parties, seconds, Course(rate(job, out), math.log(summary.ppl)), summary.wire_bytes)


def rate(job: Job, out: Path) -> float:
    """Tokens a second after the first epoch: a client's turns follow each other, so that their durations add up."""
    longest = 0.0
    for client in range(CLIENTS):
        log = out / "telemetry" / f"rank_{client:05d}.h5"
        turns, rounds = read_table(log, "train"), read_table(log, "rounds")
        late = turns[turns["epoch"] > 0]
        averaging = float(np.sum(rounds["seconds"][rounds["epoch"] > 0], dtype=float))
        longest = max(longest, float(np.sum(late["seconds"] + late["wait"], dtype=float)) + averaging)
    return (job.epochs - 1) * job.epoch_tokens / longest
