"""The logs of one run as a replay reads them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read, read_kept
from splitcom_dist.telemetry.ledger import SENT, named_totals


@dataclass(frozen=True)
class RunLogs:
    """Tables as telemetry/schema.py has them; of `traffic` the senders' rows alone."""

    path: Path
    config: Config
    traffic: np.ndarray
    similarity: np.ndarray
    sketch: np.ndarray  # no rows where the run logged none
    threshold: np.ndarray
    evaluations: np.ndarray
    train: np.ndarray
    adapter_rows: np.ndarray  # (n, 2) int64: step and bytes of every averaging and sum of gradients
    movements: np.ndarray  # (n, 2): step and norm of every change of the averaged adapter; none in older logs
    other_bytes: int  # adapters, reports and verdicts of the whole run
    resyncs: int


def read_logs(path: Path) -> RunLogs:
    """Of a run directory. Raises UserError if it is none, or has not finished."""
    for part in ("config.yaml", "run.h5"):
        if not (path / part).is_file():
            raise UserError(f"{path}: no {part}; give the directory of a finished run")
    config = load_config([path / "config.yaml"])
    if config.train.micro_batches > 1:
        raise UserError(f"{path}: a batch was several packets (train.micro_batches); replay a run with one a batch")
    file = path / "run.h5"
    traffic = read(file, "traffic")
    rounds, gradients = read(file, "rounds"), read(file, "gradients")
    rows = [np.stack([table["step"], table["bytes"]], axis=1) for table in (rounds, gradients)]
    moves = np.stack([rounds["step"], rounds["movement"]], axis=1)
    return RunLogs(
        path=path,
        config=config,
        traffic=traffic[traffic["side"] == SENT],
        similarity=read(file, "similarity"),
        sketch=read(file, "sketch"),
        threshold=read(file, "threshold"),
        evaluations=read(file, "eval"),
        train=read(file, "train"),
        adapter_rows=np.concatenate(rows).astype(np.int64),
        movements=moves[~np.isnan(moves[:, 1])],
        other_bytes=_other_bytes(path),
        resyncs=int(np.count_nonzero(read(file, "events")["kind"] == b"resync")),
    )


def _other_bytes(run: Path) -> int:
    if (run / "summary.json").is_file():
        told = json.loads((run / "summary.json").read_text())
        return int(told["adapter_bytes"] + told["control_bytes"])
    totals = [read_kept(file)[1] for file in sorted((run / "telemetry").glob("rank_*.h5"))]
    others = [named_totals(torch.from_numpy(values))[1] for values in totals if len(values)]
    return sum(told["adapter_bytes"] + told["control_bytes"] for told in others)
