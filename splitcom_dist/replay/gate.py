"""The cosine gate of one link, passed again by the logged visits: who would have been sent, who skipped."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import LinkUse
from splitcom_dist.replay.nearness import Nearness
from splitcom_dist.replay.packets import Packets, wire_bytes
from splitcom_dist.replay.visits import UNLOGGED


@dataclass(frozen=True)
class LinkBytes:
    """What crossed, or would have, on one link in some steps, and how stale it was.

    The stale error of a visit is ||now - what the other end uses|| / ||now||, 0 where it is sent.
    """

    wire_bytes: int
    raw_bytes: int  # of a baseline without padding
    sent: int  # positions
    skipped: int
    squared_error: float  # sum over all positions
    drift: float  # relative error gained a visit, as codec/gated/gate.py has it

    @property
    def stale_error(self) -> float:
        """Root mean square over all positions."""
        return float(np.sqrt(self.squared_error / max(1, self.sent + self.skipped)))

    @property
    def use(self) -> LinkUse:
        """The same as a controller sees it."""
        return LinkUse(self.raw_bytes, self.wire_bytes, self.sent, self.skipped, self.drift)


def mean_squared_error(links: Iterable[LinkBytes]) -> float:
    """Over the positions of all links."""
    parts = list(links)
    return sum(part.squared_error for part in parts) / max(1, sum(part.sent + part.skipped for part in parts))


class GateReplay:
    """One link of a run with the codec of `config`; `play` its steps in order."""

    def __init__(self, packets: Packets, nearness: Nearness, config: Config) -> None:
        self.packets = packets
        self._nearness = nearness
        self._config = config
        self._codec = getattr(config.codec, packets.link)
        visits = self._visits = nearness.visits
        is_logged = visits.packet != UNLOGGED
        self._step = np.where(is_logged, packets.step[visits.packet], -1)
        self._reference = np.full(int(visits.who.max(initial=-1)) + 1, -1)  # of each sample, a visit
        self._reference[visits.who[~is_logged]] = np.flatnonzero(~is_logged)
        self._sent = np.ones(len(visits.who), bool)
        self._cosine = np.full(len(visits.who), np.nan)
        self._error = np.zeros(len(visits.who))
        self._age = np.ones(len(visits.who), np.int64)  # visits since the sample was sent

    def play(self, start: int, stop: int, theta: float) -> None:
        """Let the visits of steps [start, stop) pass at a threshold: sent unless more similar than this."""
        rows = self._rows(start, stop)
        epochs = self.packets.epoch[self._visits.packet[rows]]
        for epoch in np.unique(epochs):  # within one, no sample comes twice
            self._pass(rows[epochs == epoch], theta)

    def between(self, start: int, stop: int) -> LinkBytes:
        """Of steps [start, stop), which were played before."""
        rows, packets = self._rows(start, stop), self.packets.between(start, stop)
        offset = self.packets.places(start, stop).start
        skipped = np.zeros(len(packets.step), np.int64)
        quiet = rows[~self._sent[rows]]
        np.add.at(skipped, self._visits.packet[quiet] - offset, self._visits.tokens[quiet])
        sent = np.where(packets.full, packets.tokens - skipped, packets.sent)
        known = rows[~np.isnan(self._cosine[rows])]
        gained = np.sqrt(np.clip(2 - 2 * self._cosine[known], 0, None)) / self._age[known]
        return LinkBytes(
            wire_bytes=int(wire_bytes(packets, self._config, sent).sum()),
            raw_bytes=int(packets.raw_real.sum()),
            sent=int(sent.sum()),
            skipped=int((packets.tokens - sent).sum()),
            squared_error=float((self._error[quiet] ** 2 * self._visits.tokens[quiet]).sum()),
            drift=float(gained.mean()) if len(known) else 0.0,
        )

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return np.arange(*np.searchsorted(self._step, [start, stop]))

    def _pass(self, rows: np.ndarray, theta: float) -> None:
        """Visits of distinct samples."""
        visits, reference = self._visits, self._reference[self._visits.who[rows]]
        if self._codec.gate == "cosine":
            now, before = rows[reference >= 0], reference[reference >= 0]
            cosine = self._nearness.cosine(before, now)
            self._cosine[now], self._sent[now] = cosine, ~(cosine > theta)
            self._error[now] = self._nearness.error(cosine, before, now, self._codec.rescale)
            self._age[now] = visits.ordinal[now] - visits.ordinal[before]
        sent = rows[self._sent[rows]]
        self._reference[visits.who[sent]] = sent
