"""The sending end of a link: values in, packets out; every packet is booked."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitcom_dist.codec.frames import Encoder
from splitcom_dist.codec.gated.gate import Drift
from splitcom_dist.codec.header import ABSENT, FRESH, MOVED, RESYNC, Header
from splitcom_dist.codec.visit import Visit
from splitcom_dist.comm.link import Edge
from splitcom_dist.devices import to_host
from splitcom_dist.links import LINK_CODES
from splitcom_dist.roles.context import Context
from splitcom_dist.state import State, Stateful, facts, gathered, read_facts, spread
from splitcom_dist.telemetry.records import record_event, record_similarity
from splitcom_dist.telemetry.sketches import SketchLog


def nothing_of(link: str, client: int, step: int, visit: Visit) -> Header:
    """A batch all of whose positions are skipped."""
    return Header(LINK_CODES[link], step, client, len(visit.samples), visit.tokens, n_s=visit.tokens)


@dataclass
class Outgoing:
    """The sending end."""

    context: Context
    edge: Edge
    link: str
    client: int
    encoder: Encoder
    drift: Drift = field(default_factory=Drift)
    sketches: SketchLog | None = None

    def send(
        self,
        step: int,
        visit: Visit,
        values: Tensor | None,
        *,
        peer_digest: int | None = None,
        answer_digest: int = 0,
        targets: int = 0,
        also: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Encode rows (T, d) of a batch and send them, with the sections `also`.

        `values` may be None where `encoder.needs_values` is False. `peer_digest` is the receiver's store as it has
        just told; where ours is another, both begin afresh.
        """
        started = time.perf_counter()
        flags = 0
        if peer_digest is not None and peer_digest != self.encoder.store.digest:
            record_event(self.context.log, step, "resync", f"{self.link} of client {self.client}: beginning afresh")
            self.encoder.store.clear()
            flags = FRESH
        digest = self.encoder.store.digest
        frames = self.encoder.encode(None if values is None else self._where_it_encodes(values.detach()), visit)
        header = Header(
            link=LINK_CODES[self.link],
            step=step,
            client=self.client,
            samples=len(visit.samples),
            tokens=visit.tokens,
            targets=targets,
            n_i=frames.intra,
            n_p=frames.predicted,
            n_s=frames.skipped,
            n_c=frames.cold,
            flags=flags,
            store_digest=digest,
            answer_digest=answer_digest,
        )
        self._transmit(header, {**frames.sections, **(also or {})}, started)
        if frames.similarity is not None and frames.sent is not None:
            self.drift.observe(visit.samples, frames.similarity, frames.sent)
        epoch = self.context.schedule.epoch_of(step)
        record_similarity(self.context.log, epoch, header, visit, frames)
        if self.sketches is not None and values is not None:
            self.sketches.record(step, epoch, self.client, header.link, visit, values)

    def _where_it_encodes(self, rows: Tensor) -> Tensor:
        """The rows where the codec of this link computes; the only copy of rows to the host."""
        return rows if self.context.residence(self.link).compute == rows.device else to_host(rows)

    def state(self) -> State:
        """The encoder's, its threshold, and how fast its values drift."""
        return gathered(self._memory) | {"facts": facts({"theta": self.encoder.theta})}

    def load(self, state: State) -> None:
        spread(state, self._memory)
        self.encoder.theta = read_facts(state["facts"])["theta"]

    @property
    def _memory(self) -> dict[str, Stateful]:
        sketches = {} if self.sketches is None else {"sketches": self.sketches}
        return {"encoder": self.encoder, "drift": self.drift, **sketches}

    def close(self) -> None:
        self.encoder.store.close()

    def spare(self, step: int, visit: Visit) -> None:
        """Book a batch of which nothing crosses: the baselines would have sent it."""
        self.context.ledger.sent(nothing_of(self.link, self.client, step, visit), 0, 0, 0.0, 0.0)

    def acknowledge(self, step: int, visit: Visit) -> None:
        """Answer a batch with a header alone, where no values are due."""
        self._transmit(nothing_of(self.link, self.client, step, visit), {}, time.perf_counter())

    def hand_over(self, step: int, moments: Tensor) -> None:
        """Send float32 values (n,) that belong to blocks which the other end will train."""
        header = Header(LINK_CODES[self.link], step, self.client, flags=MOVED)
        self._transmit(header, {"side": moments.view(torch.uint8)}, time.perf_counter())

    def tell_absence(self, step: int) -> None:
        """In place of the packet that opens a turn: this client has no batch for this step."""
        self._transmit(Header(LINK_CODES[self.link], step, self.client, flags=ABSENT), {}, time.perf_counter())

    def ask_for_resync(self, step: int) -> None:
        """Answer that the batch was refused, in place of values."""
        self._transmit(Header(LINK_CODES[self.link], step, self.client, flags=RESYNC), {}, time.perf_counter())

    def _transmit(self, header: Header, sections: dict[str, Tensor], started: float) -> None:
        encoded = time.perf_counter()
        wire = self.edge.send(header, sections, apart=self.context.residence(self.link).apart)
        labels = len(sections.get("labels", ()))
        self.context.ledger.sent(header, wire, labels, encoded - started, time.perf_counter() - encoded)
