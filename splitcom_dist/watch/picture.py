"""What a run's logs say of it at one moment."""

import re
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.links import LINKS
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.summary import COUNTS, OTHERS
from splitcom_dist.watch.tail import Tail

TABLES = ("train", "eval", "threshold", "rounds", "events")
RECENT = 50  # steps that speed is told from
ALL = -1  # the client of the row of a whole step
LEAST_SILENCE = 15.0  # seconds without a sign that say nothing yet


@dataclass
class RankState:
    name: str
    step: int = -1
    away: str = ""  # why the server has parted from it, "" while it takes part


@dataclass
class Picture:
    """`poll` brings it up to date. Losses in nats, times in seconds, sizes in bytes."""

    root: Path
    losses: list[float] = field(default_factory=list)  # of every step, over all target tokens
    evals: list[tuple[int, int, float]] = field(default_factory=list)  # (step, epoch, perplexity)
    thresholds: dict[int, tuple[float, str, str]] = field(default_factory=dict)  # by link: theta, controller, reason
    events: list[tuple[float, int, str, str]] = field(default_factory=list)  # time, step, kind, text
    step: int = -1
    epoch: int = -1
    tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    news: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # rows of the last poll, by rank and table
    began_anew: bool = False  # in the last poll: the run has been resumed, and all was read again

    def __post_init__(self) -> None:
        stored = self.root / "config.yaml"
        if not stored.is_file():
            raise UserError(f"{self.root}: no run: it has no config.yaml")
        self.config = load_config([stored])
        self.layout = layout_for(self.config)
        self.directory = RunDirectory(self.root)
        self.more_tables: tuple[str, ...] = ()
        self._begin()

    def also_read(self, *tables: str) -> None:
        """Have the rows of these tables in `news`, too."""
        self.more_tables = tables
        self._begin()

    def _begin(self) -> None:
        paths = [self.directory.rank_telemetry(rank) for rank in range(self.layout.world_size)]
        self.tails = [Tail(path, (*TABLES, *self.more_tables)) for path in paths]
        self.ranks = [RankState(self.layout.name_of(rank)) for rank in range(self.layout.world_size)]
        self.losses, self.evals, self.thresholds, self.events = [], [], {}, []
        self.step = self.epoch = -1
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)  # tokens and seconds of a step
        self._averagings: deque[float] = deque(maxlen=RECENT)  # seconds
        self._partial: dict[int, list[tuple[float, int]]] = {}  # by step: losses of clients that know them, and targets

    def poll(self) -> None:
        """Read what the ranks have logged since the last call."""
        self.began_anew = False
        news = [tail.poll() for tail in self.tails]
        if any(tail.began_anew for tail in self.tails):
            self._begin()
            news = [tail.poll() for tail in self.tails]
            self.began_anew = True
        self.news = dict(enumerate(news))
        for rank, rows in self.news.items():
            if rows:
                self._take(rank, rows)
        self.events.sort(key=lambda event: event[0])
        for _, _, kind, text in self.events:
            if kind in ("lost", "back") and (match := re.search(r"rank (\d+)", text)):
                self.ranks[int(match[1])].away = text if kind == "lost" else ""
        if self._recent:
            tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True))
            self.tokens_per_second = tokens / max(1e-9, seconds)
            averaging = statistics.mean(self._averagings) / self.config.fed.every if self._averagings else 0.0
            self.step_seconds = seconds / len(self._recent) + averaging

    def _take(self, rank: int, rows: dict[str, np.ndarray]) -> None:
        state = self.ranks[rank]
        for table in ("train", "rounds", "eval"):
            if len(rows[table]):
                state.step = max(state.step, int(rows[table]["step"][-1]))
        self._learn(rows["train"], rank)
        for row in rows["eval"]:
            self.evals.append((int(row["step"]), int(row["epoch"]), float(row["ppl"])))
        for row in rows["threshold"]:
            self.thresholds[int(row["link"])] = (float(row["theta"]), _text(row["controller"]), _text(row["reason"]))
        for row in rows["events"]:
            self.events.append((float(row["time"]), int(row["step"]), _text(row["kind"]), _text(row["text"])))
        if rank == self.layout.aggregator_rank:
            self._averagings.extend(rows["rounds"]["seconds"].tolist())

    def _learn(self, train: np.ndarray, rank: int) -> None:
        """Losses: of whole steps at the first server, in the U-shape of clients, which may log a step one by one."""
        for row in train[train["client"] == ALL] if rank == self.layout.first_server else ():
            self.step, self.epoch = int(row["step"]), int(row["epoch"])
            self._recent.append((int(row["tokens"]), float(row["seconds"] + row["wait"])))
            self._lose(self.step, float(row["loss"]))
        if rank in self.layout.client_ranks:
            known = train[np.isfinite(train["loss"])]
            for step, loss, targets in zip(known["step"], known["loss"], known["target_tokens"], strict=True):
                told = self._partial.setdefault(int(step), [])
                told.append((float(loss), int(targets)))
                self._lose(int(step), sum(a * b for a, b in told) / max(1, sum(b for _, b in told)))

    def _lose(self, step: int, loss: float) -> None:
        if np.isfinite(loss):
            self.losses += [np.nan] * (step + 1 - len(self.losses))
            self.losses[step] = loss

    @property
    def total_steps(self) -> int | None:
        """Of the whole run; None while nobody knows."""
        log = self.directory.rank_log(self.layout.first_server)
        if log.is_file() and (found := re.findall(r"steps \d+ to (\d+), shards", log.read_text(errors="replace"))):
            return int(found[-1]) + 1
        ends = [(step + 1) // (epoch + 1) for step, epoch, _ in self.evals if epoch >= 0]
        return ends[0] * self.config.train.epochs if ends else None

    @property
    def seconds_left(self) -> float | None:
        """As its last steps went, evaluations not counted; None if that cannot be told."""
        total = self.total_steps
        return None if total is None or not self._recent else (total - self.step - 1) * self.step_seconds

    def traffic(self) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
        """Bytes and frames by link, and the other totals by name, over all ranks so far."""
        size = len(LINKS) * len(COUNTS)
        known = [tail.totals for tail in self.tails if len(tail.totals) == size + len(OTHERS)]
        totals = np.sum([np.zeros(size + len(OTHERS), np.int64), *known], axis=0)
        by_link = totals[:size].reshape(len(LINKS), len(COUNTS)).tolist()
        links = {link: dict(zip(COUNTS, counts, strict=True)) for link, counts in zip(LINKS, by_link, strict=True)}
        return links, dict(zip(OTHERS, totals[size:].tolist(), strict=True))

    def state_of(self, rank: int, now: float) -> str:
        """alive, silent for too long, lost, finished, stopped, unreadable, or waiting for its log."""
        tail, state = self.tails[rank], self.ranks[rank]
        if state.away and tail.closed is not True:
            return "lost"
        if tail.fault:
            return "unreadable"
        if not tail.seen:
            return "waiting"
        if tail.closed is not None:
            return "finished" if tail.closed else "stopped"
        silence = now - tail.seen
        return "alive" if silence < self.patience else "silent"

    @property
    def patience(self) -> float:
        """Seconds without a row that are still no silence: a few steps, or an evaluation, may last so long."""
        return max(LEAST_SILENCE, 5 * self.step_seconds)

    def ending(self, now: float | None = None) -> str | None:
        """How the run has ended: finished, stopped or dead; None while it goes on."""
        now = time.time() if now is None else now
        if self.directory.summary.is_file():
            return "finished"
        there = [tail for tail in self.tails if tail.seen]
        if not there:
            return None
        if len(there) == len(self.tails) and all(
            tail.closed is False or tail.fault or state.away for tail, state in zip(self.tails, self.ranks, strict=True)
        ):
            return "stopped"
        last = max(tail.seen for tail in there)
        return "dead" if now - last > max(self.config.runtime.timeout_seconds, self.patience) else None


def _text(value: Any) -> str:
    return bytes(value).decode(errors="replace")
