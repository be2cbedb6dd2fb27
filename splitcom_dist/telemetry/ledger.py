"""The traffic ledger: one row a packet at each end, and the totals a run's summary is made of.

Traffic is counted where it is sent. Rows of receivers are there to be compared with them, never added.
"""

import torch
from torch import Tensor

from splitcom_dist.codec.header import Header
from splitcom_dist.links import LINKS
from splitcom_dist.schedule import Schedule
from splitcom_dist.state import State, facts, read_facts
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.summary import COUNTS, OTHERS

SENT, RECEIVED = 0, 1


class Ledger:
    """Books of one rank. `row_bytes` is what the raw baseline pays for one position: d x itemsize."""

    def __init__(self, log: RankLog, schedule: Schedule, max_length: int, row_bytes: int) -> None:
        self._log = log
        self._schedule = schedule
        self._max_length = max_length
        self._row_bytes = row_bytes
        self._links = {link: dict.fromkeys(COUNTS, 0) for link in LINKS}
        self._others = dict.fromkeys(OTHERS, 0)
        self.loss, self.loss_targets = 0.0, 0  # summed over the run so far, where this rank computes it
        self.turns_left_out = 0  # where this rank, a server, was told of an absence
        self.crossed_bytes = 0  # sent and received by this rank: what its progress shows
        log.also_keep(lambda: self.totals().numpy())

    def sent(self, header: Header, wire: int, labels: int, encode_seconds: float, send_seconds: float) -> None:
        """Book a packet this rank sent; `wire` is its size in bytes, of which `labels` are labels."""
        raw_padded, raw_real = self._row(header, SENT, wire, labels, encode_seconds, send_seconds, torch.nan)
        counts = (raw_padded, raw_real, wire, header.n_i, header.n_p, header.n_s, header.n_c)
        for name, count in zip(COUNTS, counts, strict=True):
            self._links[LINKS[header.link]][name] += count
        self._others["label_bytes"] += labels

    def received(self, header: Header, wire: int, labels: int, decode_seconds: float) -> None:
        """Book a packet this rank received."""
        self._row(header, RECEIVED, wire, labels, torch.nan, torch.nan, decode_seconds)

    def adapters(self, size: int) -> None:
        """Bytes of adapters this rank handed to the transport."""
        self._others["adapter_bytes"] += size

    def control(self, size: int) -> None:
        """Bytes of reports and verdicts, counted for each rank they go to."""
        self._others["control_bytes"] += size

    def learnt(self, loss: float, targets: int) -> None:
        """Loss summed over so many targets, where this rank knows it."""
        self.loss += loss
        self.loss_targets += targets

    def trained(self, tokens: int) -> None:
        """Positions a client trained on."""
        self._others["tokens"] += tokens

    def left_out(self) -> None:
        """A turn that a late client did not take; servers count them, since no run outlives its servers."""
        self.turns_left_out += 1

    def totals(self) -> Tensor:
        """All counts as one int64 vector, to be summed over ranks."""
        values = [count for link in LINKS for count in self._links[link].values()]
        return torch.tensor([*values, *self._others.values()], dtype=torch.int64)

    def go_on_from(self, totals: Tensor) -> None:
        """Count on from what `totals` of an earlier process of this rank gave."""
        if len(totals):
            self._links, self._others = named_totals(totals)

    def state(self) -> State:
        told = {"links": self._links, "others": self._others, "loss": self.loss, "loss_targets": self.loss_targets}
        told |= {"crossed_bytes": self.crossed_bytes, "turns_left_out": self.turns_left_out}
        return {"facts": facts(told)}

    def load(self, state: State) -> None:
        told = read_facts(state["facts"])
        self._links, self._others = told["links"], told["others"]
        self.loss, self.loss_targets = told["loss"], told["loss_targets"]
        self.crossed_bytes, self.turns_left_out = told["crossed_bytes"], told["turns_left_out"]

    def _row(
        self,
        header: Header,
        side: int,
        wire: int,
        labels: int,
        encode_seconds: float,
        send_seconds: float,
        decode_seconds: float,
    ) -> tuple[int, int]:
        self.crossed_bytes += wire
        raw_padded = header.samples * self._max_length * self._row_bytes
        raw_real = header.tokens * self._row_bytes
        self._log.append(
            "traffic",
            step=header.step,
            epoch=self._schedule.epoch_of(header.step),
            client=header.client,
            link=header.link,
            side=side,
            tokens=header.tokens,
            raw_padded=raw_padded,
            raw_real=raw_real,
            wire=wire,
            label=labels,
            n_I=header.n_i,
            n_P=header.n_p,
            n_S=header.n_s,
            n_C=header.n_c,
            t_encode=encode_seconds,
            t_send=send_seconds,
            t_decode=decode_seconds,
        )
        return raw_padded, raw_real


def named_totals(totals: Tensor) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """The summed vector of `Ledger.totals` by link and by name."""
    values = [int(value) for value in totals]
    size = len(COUNTS)
    links = {
        link: dict(zip(COUNTS, values[index * size : (index + 1) * size], strict=True))
        for index, link in enumerate(LINKS)
    }
    return links, dict(zip(OTHERS, values[len(LINKS) * size :], strict=True))
