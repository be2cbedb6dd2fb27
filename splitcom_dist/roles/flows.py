"""The two ends of one link of one logical client: values in, packets out, and the reverse; every packet is booked."""

import time
from dataclasses import dataclass, field

from torch import Tensor

from splitcom_dist.codec.codec import Decoder, Encoder
from splitcom_dist.codec.gate import Drift
from splitcom_dist.codec.wire import FRESH, RESYNC, Expected, Header, Visit, pack_manifest, parse_manifest
from splitcom_dist.comm.link import Edge
from splitcom_dist.errors import WireError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.roles.context import Context
from splitcom_dist.telemetry.records import record_event, record_similarity


@dataclass
class Outgoing:
    """The sending end."""

    context: Context
    edge: Edge
    link: str
    client: int
    encoder: Encoder
    drift: Drift = field(default_factory=Drift)

    def send(
        self,
        step: int,
        visit: Visit,
        values: Tensor | None,
        *,
        peer_digest: int | None = None,
        answer_digest: int = 0,
        labels: Tensor | None = None,
        targets: int = 0,
    ) -> None:
        """Encode rows (T, d) of a batch and send them; `values` may be None where `encoder.needs_values` is False.

        `peer_digest` is the receiver's store as it has just told; where ours is another, both begin afresh.
        """
        started = time.perf_counter()
        flags = 0
        if peer_digest is not None and peer_digest != self.encoder.store.digest:
            record_event(self.context.log, step, "resync", f"{self.link} of client {self.client}: beginning afresh")
            self.encoder.store.clear()
            flags = FRESH
        digest = self.encoder.store.digest
        frames = self.encoder.encode(None if values is None else values.detach(), visit.samples, visit.lengths)
        header = Header(
            link=LINK_CODES[self.link],
            step=step,
            client=self.client,
            samples=len(visit.samples),
            tokens=visit.tokens,
            targets=targets,
            n_i=frames.intra,
            n_s=frames.skipped,
            flags=flags,
            store_digest=digest,
            answer_digest=answer_digest,
        )
        sections = dict(frames.sections)
        if self.link == self.context.links[0]:
            sections["manifest"] = pack_manifest(visit)
        if labels is not None:
            sections["labels"] = labels
        self._transmit(header, sections, started)
        if frames.similarity is not None and frames.sent is not None:
            self.drift.observe(visit.samples, frames.similarity, frames.sent)
        record_similarity(self.context.log, self.context.schedule.epoch_of(step), header, visit.samples, frames)

    def ask_for_resync(self, step: int) -> None:
        """Answer that the batch was refused, in place of values."""
        self._transmit(Header(LINK_CODES[self.link], step, self.client, flags=RESYNC), {}, time.perf_counter())

    def _transmit(self, header: Header, sections: dict[str, Tensor], started: float) -> None:
        encoded = time.perf_counter()
        wire = self.edge.send(header, sections)
        labels = len(sections.get("labels", ()))
        self.context.ledger.sent(header, wire, labels, encoded - started, time.perf_counter() - encoded)


@dataclass(frozen=True)
class Packet:
    """One packet as it arrived, checked but not yet decoded. Sections are views that the next packet overwrites."""

    header: Header
    sections: dict[str, Tensor]
    visit: Visit
    expected: Expected
    wire: int  # bytes

    @property
    def asks_for_resync(self) -> bool:
        return bool(self.header.flags & RESYNC)


@dataclass
class Incoming:
    """The receiving end."""

    context: Context
    edge: Edge
    link: str
    client: int
    decoder: Decoder

    def receive(self, step: int, visit: Visit | None = None) -> Packet:
        """The packet of this step for the batch `visit`; None for the one that opens a step and names its batch."""
        expected = self.context.expected(self.link, self.edge.peer, self.client, step, visit)
        header, sections, wire = self.edge.receive(expected)
        visit = visit or parse_manifest(header, sections["manifest"], expected)
        return Packet(header, sections, visit, expected, wire)

    def fits(self, packet: Packet) -> bool:
        """Whether the packet was made over the references that we hold."""
        return packet.header.store_digest == self.decoder.store.digest

    def decode(self, packet: Packet) -> Tensor | None:
        """Rows (T, d), or None where the packet has none to give. Raises WireError, with the store unchanged."""
        started, header, rows = time.perf_counter(), packet.header, None
        if header.flags & FRESH:
            reason = f"{self.link} of client {self.client}: {self.edge.peer} begins afresh"
            record_event(self.context.log, header.step, "resync", reason)
            self.decoder.store.clear()
        if not packet.asks_for_resync and self.decoder.config.gate != "never":
            if not self.fits(packet):
                reason = f"{header.store_digest}, {self.decoder.store.digest} expected"
                raise packet.expected.error("store_digest", reason)
            visit, sections = packet.visit, packet.sections
            coded = sections["modes"], sections["scales"], sections["symbols"]
            try:
                rows = self.decoder.decode(*coded, visit.samples, visit.lengths)
            except WireError as error:
                raise packet.expected.error("body", str(error)) from None
        self.context.ledger.received(header, packet.wire, len(packet.sections["labels"]), time.perf_counter() - started)
        return rows

    def refuse(self, packet: Packet) -> None:
        """Drop our references: the packet was made over others."""
        mine, theirs = self.decoder.store.digest, packet.header.store_digest
        reason = f"{self.link} of client {self.client}: its digest {theirs}, here {mine}"
        record_event(self.context.log, packet.header.step, "resync", reason)
        self.context.ledger.received(packet.header, packet.wire, len(packet.sections["labels"]), 0.0)
        self.decoder.store.clear()
