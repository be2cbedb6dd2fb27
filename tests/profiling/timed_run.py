"""A run directory whose logs are those of a cluster with known speeds: two clients on two ranks, a server."""

import dataclasses
from pathlib import Path

import numpy as np

from splitcom_dist.config.files import load_config, to_yaml
from splitcom_dist.links import LINK_CODES
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.summary import RankMemory, Summary, write

UP, DOWN, LATENCY = 1e6, 4e6, 0.015  # bytes a second, and seconds one way
AT_CLIENT, AT_SERVER, OPTIMIZER = 0.2, 0.1, 0.004  # seconds computing a turn, and the server's step
ENCODE, DECODE, SEND = 0.003, 0.002, 0.001
QUEUE = 0.7  # the server is busy when every other packet of client 1 comes
RESIDENT = 500_000_000
STEPS = 4  # of an epoch
RUN = [
    *("data.train_samples=32", "data.validation_samples=2", "train.batch_size=4", "fed.clients=2"),
    *("roles.client_ranks=2", "train.epochs=5"),
]


def write_run(root: Path, *settings: str, finished: bool = True, steps: int = 5 * STEPS, alike: bool = False) -> Path:
    """Rows of so many steps; packets up are smaller from the second epoch on, unless both ways are `alike`."""
    config = load_config([], [*RUN, *settings])
    text, draw = to_yaml(config), np.random.default_rng(0)
    (root / "telemetry").mkdir(parents=True)
    (root / "config.yaml").write_text(text)
    logs = [
        RankLog(root / f"telemetry/rank_{rank:05d}.h5", rank=rank, role=role, config=text)
        for rank, role in enumerate(("client", "client", "server", "aggregator"))
    ]
    for step in range(steps):
        for client in (0, 1):
            down = int(draw.integers(50_000, 150_000))
            up = down if alike else int(draw.integers(50_000, 150_000)) // (1 + 4 * (step >= STEPS))
            _exchange(logs, step, client, up, down)
        _train(logs[2], step, -1, 2 * _turn(AT_SERVER) + OPTIMIZER, 1.0)
    for log in logs:
        log.close() if finished else log.flush()
    if finished:
        memory = [RankMemory(f"rank {rank}", 1, RESIDENT) for rank in range(4)]
        summary = Summary(1.0, 2.0, 1.0, 1, {}, 0, 0, 0, "float16", memory, dataclasses.asdict(config))
        write(summary, root / "summary.json")
    return root


def crossed(run: Path, link: str) -> np.ndarray:
    """Bytes of a link by epoch."""
    from splitcom_dist.telemetry.hdf5 import read

    rows = np.concatenate([read(run / f"telemetry/rank_{rank:05d}.h5", "traffic") for rank in range(3)])
    own = rows[(rows["link"] == LINK_CODES[link]) & (rows["side"] == 0)]
    return np.bincount(own["epoch"], own["wire"])


def _turn(computing: float) -> float:
    return computing + ENCODE + SEND + DECODE


def _exchange(logs: list[RankLog], step: int, client: int, up: int, down: int) -> None:
    queued = client == 1 and step % 2 == 1
    answering = _turn(AT_SERVER) - SEND
    wait = up / UP + down / DOWN + 2 * LATENCY + answering - SEND + QUEUE * queued
    _train(logs[client], step, client, _turn(AT_CLIENT), wait)
    _train(logs[2], step, client, _turn(AT_SERVER), 0.0 if queued else 1.0)
    for link, size, sender, receiver in ((0, up, logs[client], logs[2]), (1, down, logs[2], logs[client])):
        for side, log in enumerate((sender, receiver)):
            times = (ENCODE, SEND, np.nan) if side == 0 else (np.nan, np.nan, DECODE)
            counts = dict.fromkeys(("tokens", "raw_padded", "raw_real", "label", "n_I", "n_P", "n_S", "n_C"), 0)
            names = dict(zip(("t_encode", "t_send", "t_decode"), times, strict=True))
            row = {"step": step, "epoch": step // STEPS, "client": client, "link": link, "side": side, "wire": size}
            log.append("traffic", **row, **counts, **names)


def _train(log: RankLog, step: int, client: int, seconds: float, wait: float) -> None:
    row = {"step": step, "epoch": step // STEPS, "client": client, "seconds": seconds, "wait": wait}
    log.append("train", **row, loss=1.0, tokens=200, target_tokens=100, lr=1e-3)
