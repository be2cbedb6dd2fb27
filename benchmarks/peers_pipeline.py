"""torch.distributed.pipelining in benchmarks/peers.py: two stages, each a party; no clients, one pool of text."""

import sys
import time
from pathlib import Path

from peers_job import CLIENTS, Job
from peers_outcome import LIMIT, Outcome, lines_of_code, outcome, read_marks
from peers_parties import CABLE, Parties

PROGRAM = Path(__file__).resolve().parent / "peers" / "pipeline.py"


def options(job: Job, marks: Path) -> list[str]:
    """A step has the texts that a step of all clients has, each client's batch a micro-batch."""
    values = {
        "model": job.model,
        "tokens": job.tokens,
        "marks": marks,
        "cut": job.balanced_cut,
        "width": job.longest - 1,
        "epochs": job.epochs,
        "batch": CLIENTS * job.batch,
        "micro-batches": CLIENTS,
        "rank": job.rank,
        "alpha": job.alpha,
        "lr": job.lr,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def lines(job: Job) -> int:
    return lines_of_code([PROGRAM]) + len(options(job, Path()))


def run(job: Job, folder: Path) -> Outcome:
    marks, stages = folder / "marks.jsonl", ["first", "last"]
    with Parties(stages, folder / "logs") as parties:
        meeting = {"MASTER_ADDR": parties.address("first"), "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
        common = meeting | {"GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1"}
        started = time.monotonic()
        command = [sys.executable, str(PROGRAM), *options(job, marks)]
        numbers = [parties.start(name, command, common | {"RANK": str(rank)}) for rank, name in enumerate(stages)]
        parties.wait(numbers, LIMIT)
        return outcome(parties, time.monotonic() - started, read_marks(marks, job.epoch_tokens))
