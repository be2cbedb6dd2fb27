"""A run directory with logs of known numbers, written by the log itself: two clients, a server, an aggregator."""

import dataclasses
import json
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitcom_dist.config.files import load_config, to_yaml
from splitcom_dist.config.schema import Config
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.summary import COUNTS, RankMemory, Summary, write

WIDTH = 64  # bytes of a raw position
EPOCHS, STEPS, SAMPLES = 3, 4, 3  # steps of an epoch, samples of a client's step
RATES = {"I": 30.0, "P": 9.0, "S": 0.0}
THETA = (0.98, 0.99, 0.97, 0.96)  # from before training on


@cache
def configured(settings: tuple[str, ...]) -> tuple[Config, str]:
    """The configuration, and how logs write it."""
    config = load_config([], ["fed.clients=2", "roles.client_ranks=2", "codec=splitcom", *settings])
    return config, to_yaml(config)


def write_run(root: Path, *, finished: bool = True, seed: int = 0, settings: tuple[str, ...] = ()) -> Path:
    """Write telemetry/ and, of a finished run, summary.json; logs of an unfinished one are not closed."""
    generator = np.random.default_rng(seed)
    config, text = configured(settings)
    (root / "telemetry").mkdir(parents=True)
    roles = ("client", "client", "server", "aggregator")
    logs = [
        RankLog(root / f"telemetry/rank_{rank:05d}.h5", rank=rank, role=role, config=text)
        for rank, role in enumerate(roles)
    ]
    counts = np.zeros((4, 4, len(COUNTS)), np.int64)  # by rank and link
    others = np.zeros((4, 4), np.int64)  # by rank: labels, adapters, control, tokens
    for client in (0, 1):
        logs[client].append(
            "events", time=1e9 + client, step=-1, kind="cut", text=f"client {client} is cut after 2 blocks"
        )
        others[client, 2] = 50
    logs[2].append("events", time=1e9 + 5, step=5, kind="cut", text="client 1: cut 2 -> 3 (more memory <b>free</b>)")
    logs[3].append("threshold", **decision(-1, -1))
    logs[3].append("eval", **evaluation(-1, -1))
    for step in range(EPOCHS * STEPS):
        epoch = step // STEPS
        for client in (0, 1):
            exchange(logs, counts, others, generator, step, epoch, client)
        logs[2].append("train", **training(step, epoch, -1, 0.2, 0.1))
        if step % STEPS == STEPS - 1:
            for rank in (0, 1, 3):
                row = {"step": step, "epoch": epoch, "participants": int(rank < 2), "weight": 10.0}
                logs[rank].append("rounds", **row, bytes=1000, seconds=0.05, movement=0.1)
                others[rank, 1] += 1000
            others[2, 1] += 500  # for the evaluation: counted, in no row
            logs[3].append("eval", **evaluation(step, epoch))
            logs[3].append("threshold", **decision(step, epoch))
    for rank, log in enumerate(logs):
        totals = torch.from_numpy(np.concatenate([counts[rank].ravel(), others[rank]]))
        log.also_keep(lambda totals=totals: totals.numpy())  # type: ignore[misc]
        log.close() if finished else log.flush()
    if finished:
        summarize(root, config, counts.sum(0), others.sum(0))
    return root


def exchange(
    logs: list[RankLog],
    counts: np.ndarray,
    others: np.ndarray,
    generator: np.random.Generator,
    step: int,
    epoch: int,
    client: int,
) -> None:
    """One client's turn: a packet up and one down, logged at both ends."""
    tokens = int(generator.integers(20, 60))
    share = 1.0 if epoch == 0 else generator.random()
    n_i = round(share * tokens)
    n_p = 0 if epoch == 0 else int(generator.integers(0, tokens - n_i + 1))
    labels = 12 if epoch == 0 else 0
    wire = round(RATES["I"] * n_i + RATES["P"] * n_p) + labels
    packet(logs, counts, step, epoch, client, 0, client, 2, tokens, (n_i, n_p, tokens - n_i - n_p), wire, labels)
    packet(logs, counts, step, epoch, client, 1, 2, client, tokens, (tokens, 0, 0), 20 * tokens, 0)
    others[client, 0] += labels
    others[client, 3] += tokens
    logs[client].append("train", **training(step, epoch, client, 0.1, 0.05))
    logs[2].append("train", **training(step, epoch, client, 0.08, 0.01))
    for index in range(SAMPLES if epoch else 0):
        row = {"step": step, "epoch": epoch, "client": client, "link": 0, "tokens": 10}
        change = float(generator.random())
        logs[client].append(
            "similarity",
            **row,
            sample=(step % STEPS) * SAMPLES + index,
            cosine=1 - 0.01 * epoch * change,
            rel_l2_p10=0.1 * change,
            rel_l2_p50=0.2 * change,
            rel_l2_p90=0.3 * change,
            rel_l2_max=0.5 * change,
            sent=change > 0.5,
        )


def packet(
    logs: list[RankLog],
    counts: np.ndarray,
    step: int,
    epoch: int,
    client: int,
    link: int,
    sender: int,
    receiver: int,
    tokens: int,
    frames: tuple[int, int, int],
    wire: int,
    labels: int,
) -> None:
    """One packet in the logs of both ends."""
    row = {"step": step, "epoch": epoch, "client": client, "link": link, "tokens": tokens, "wire": wire}
    row |= {"raw_padded": 60 * WIDTH, "raw_real": tokens * WIDTH, "label": labels, "n_C": 0}
    row |= dict(zip(("n_I", "n_P", "n_S"), frames, strict=True))
    logs[sender].append("traffic", **row, side=0, t_encode=0.01, t_send=0.02, t_decode=float("nan"))
    logs[receiver].append("traffic", **row, side=1, t_encode=float("nan"), t_send=float("nan"), t_decode=0.005)
    counts[sender, link] += (60 * WIDTH, tokens * WIDTH, wire, *frames, 0)


def training(step: int, epoch: int, client: int, seconds: float, wait: float) -> dict[str, float]:
    row = {"step": step, "epoch": epoch, "client": client, "loss": 3.0, "tokens": 30, "target_tokens": 10}
    return row | {"lr": 1e-3, "seconds": seconds, "wait": wait}


def evaluation(step: int, epoch: int) -> dict[str, object]:
    ppl = 20.0 - epoch
    row = {"step": step, "epoch": epoch, "split": "validation", "loss": float(np.log(ppl)), "ppl": ppl}
    return row | {"samples": 5, "tokens": 50, "seconds": 0.5}


def decision(step: int, epoch: int) -> dict[str, object]:
    row = {"step": step, "epoch": epoch, "link": 0, "theta": THETA[epoch + 1], "controller": "bang_bang"}
    return row | {"reason": "<script>alert(1)</script>", "state": json.dumps({"ppl": 20.0 - epoch})}


def summarize(root: Path, config: Config, counts: np.ndarray, others: np.ndarray) -> None:
    """summary.json, as a run writes it at its end."""
    links = {
        name: dict(zip(COUNTS, row.tolist(), strict=True))
        for name, row in zip(("up_activation", "down_gradient"), counts, strict=False)
    }
    label_bytes, adapter_bytes, control_bytes, tokens = others.tolist()
    summary = Summary(
        ppl=18.0,
        untuned_ppl=21.0,
        seconds=12.5,
        tokens=tokens,
        links=links,
        label_bytes=label_bytes,
        adapter_bytes=adapter_bytes,
        control_bytes=control_bytes,
        baseline_dtype="float16",
        ranks=[RankMemory(f"rank {rank} (any)", 1_000_000, 2_000_000) for rank in range(4)],
        config=dataclasses.asdict(config),
    )
    write(summary, root / "summary.json")


class Tables(HTMLParser):
    """The tables of a page by their names: rows of texts and of numbers with all their digits."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[Any]]] = {}
        self._rows: list[list[Any]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "table":
            self._rows = self.found[str(named["id"])] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag == "td":
            self._open = named.get("data-value") is None
            self._rows[-1].append("" if self._open else float(str(named["data-value"])))

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._open:
            self._rows[-1][-1] = str(self._rows[-1][-1]) + data


def tables_of(report: Path) -> dict[str, list[list[Any]]]:
    """The tables of a report by name, the row of heads, which is empty here, first."""
    return Tables(report.read_text()).found
