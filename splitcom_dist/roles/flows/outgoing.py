"""The sending end of a link: values in, packets out; every packet is booked."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from splitcom_dist.codec.frames import Encoder, Frames
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
        """Encode rows (T, d) of a batch and send them, with the sections `also`: while this rank goes on, if its edge
        runs ahead. Nobody may write to `values` any more.

        `values` may be None where `encoder.needs_values` is False. `peer_digest` is the receiver's store as it has
        just told; where ours is another, both begin afresh.
        """
        self.edge.do(partial(self._send, step, visit, values, peer_digest, answer_digest, targets, also or {}))

    def _send(
        self,
        step: int,
        visit: Visit,
        values: Tensor | None,
        peer_digest: int | None,
        answer_digest: int,
        targets: int,
        also: Mapping[str, Tensor],
    ) -> Callable[[], None]:
        started = time.perf_counter()
        flags = 0
        if peer_digest is not None and peer_digest != self.encoder.store.digest:
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
        book = self._transmit(header, {**frames.sections, **also}, started)
        return partial(self._book, book, header, visit, frames, None if self.sketches is None else values)

    def _book(
        self, packet: Callable[[], None], header: Header, visit: Visit, frames: Frames, values: Tensor | None
    ) -> None:
        """Write down what `_send` has sent."""
        log, epoch = self.context.log, self.context.schedule.epoch_of(header.step)
        if header.flags & FRESH:
            record_event(log, header.step, "resync", f"{self.link} of client {self.client}: beginning afresh")
        packet()
        if frames.similarity is not None and frames.sent is not None:
            self.drift.observe(visit.samples, frames.similarity, frames.sent)
        record_similarity(log, epoch, header, visit, frames)
        if self.sketches is not None and values is not None:
            self.sketches.record(header.step, epoch, self.client, header.link, visit, values)

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
        self._tell(nothing_of(self.link, self.client, step, visit))

    def hand_over(self, step: int, moments: Tensor) -> None:
        """Send float32 values (n,) that belong to blocks which the other end will train."""
        self._tell(Header(LINK_CODES[self.link], step, self.client, flags=MOVED), side=moments.view(torch.uint8))

    def tell_absence(self, step: int) -> None:
        """In place of the packet that opens a turn: this client has no batch for this step."""
        self._tell(Header(LINK_CODES[self.link], step, self.client, flags=ABSENT))

    def ask_for_resync(self, step: int) -> None:
        """Answer that the batch was refused, in place of values."""
        self._tell(Header(LINK_CODES[self.link], step, self.client, flags=RESYNC))

    def _tell(self, header: Header, **sections: Tensor) -> None:
        self.edge.do(lambda: self._transmit(header, sections, time.perf_counter()))

    def _transmit(self, header: Header, sections: dict[str, Tensor], started: float) -> Callable[[], None]:
        """Send a packet; what it returns books it."""
        encoded = time.perf_counter()
        wire = self.edge.send(header, sections, apart=self.context.residence(self.link).apart)
        labels = len(sections.get("labels", ()))
        seconds = encoded - started, time.perf_counter() - encoded
        return partial(self.context.ledger.sent, header, wire, labels, *seconds)
