"""The receiving end of a link: packets in, values out; every packet is booked."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.frames import Decoder
from splitcom_dist.codec.header import ABSENT, FRESH, MOVED, RESYNC, SECTIONS, Expected, Header
from splitcom_dist.codec.manifest import named_visit
from splitcom_dist.codec.prefix import KeyBook
from splitcom_dist.codec.visit import Visit
from splitcom_dist.comm.link import Edge
from splitcom_dist.devices import to_device
from splitcom_dist.errors import WireError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows.outgoing import nothing_of
from splitcom_dist.state import State
from splitcom_dist.telemetry.records import record_event


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

    @property
    def tells_absence(self) -> bool:
        return bool(self.header.flags & ABSENT)


@dataclass
class Incoming:
    """The receiving end."""

    context: Context
    edge: Edge
    link: str
    client: int
    decoder: Decoder

    def receive(self, step: int, visit: Visit | None = None, book: KeyBook | None = None) -> Packet:
        """The packet of this step for the batch `visit`; None for the one that opens a step and names its batch.

        `book` knows the keys of that batch's positions, where the run has such.
        """
        expected = self.context.expected(self.link, self.decoder, self.edge.peer, self.client, step, visit)
        header, sections, wire = self.edge.receive(expected)
        if header.flags & ABSENT:
            visit = Visit([], torch.empty(0, dtype=torch.int64))
        visit = visit or named_visit(header, sections["manifest"], book, expected)
        return Packet(header, sections, visit, expected, wire)

    def expect(self, step: int, visit: Visit | None = None) -> None:
        """Let the packet of this step for the batch `visit` come while this rank computes."""
        self.edge.expect(self.context.expected(self.link, self.decoder, self.edge.peer, self.client, step, visit))

    def take_over(self, step: int, elements: int) -> Tensor:
        """The float32 values (n,) of the peer's `hand_over`, of which so many are due. Raises WireError."""
        sizes = tuple(4 * elements if section == "side" else 0 for section in SECTIONS)
        expected = Expected(self.edge.peer, LINK_CODES[self.link], step, self.client, 0, 0, sizes, flags=MOVED)
        started = time.perf_counter()
        header, sections, wire = self.edge.receive(expected)
        if header.flags != MOVED or len(sections["side"]) != 4 * elements:
            raise expected.error("side_bytes", f"{len(sections['side'])}, {4 * elements} expected")
        moments = torch.frombuffer(bytearray(sections["side"].numpy()), dtype=torch.float32)
        self.context.ledger.received(header, wire, 0, time.perf_counter() - started)
        return moments

    def fits(self, packet: Packet, book: KeyBook | None = None) -> bool:
        """Whether the packet was made over the references that we hold."""
        if book is not None and packet.visit.paths is None:
            return False
        return packet.header.store_digest == self.decoder.store.digest

    def book(self, packet: Packet, decode_seconds: float = 0.0) -> None:
        """Count a packet; by itself, of one with nothing to decode."""
        labels = len(packet.sections["labels"])
        self.context.ledger.received(packet.header, packet.wire, labels, decode_seconds)

    def decode(self, packet: Packet) -> Tensor | None:
        """Rows (T, d) on this rank's device, or None where the link never has any.

        Raises WireError, with the store unchanged.
        """
        started, header = time.perf_counter(), packet.header
        if header.flags & FRESH:
            reason = f"{self.link} of client {self.client}: {self.edge.peer} begins afresh"
            record_event(self.context.log, header.step, "resync", reason)
            self.decoder.store.clear()
        if not self.fits(packet):
            reason = f"{header.store_digest}, {self.decoder.store.digest} expected"
            raise packet.expected.error("store_digest", reason)
        try:
            rows = self.decoder.decode(packet.sections, packet.visit)
        except WireError as error:
            raise packet.expected.error("body", str(error)) from None
        rows = None if rows is None else to_device(rows, self.context.device)
        self.book(packet, time.perf_counter() - started)
        return rows

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d) on this rank's device. Raises WireError if one is missing."""
        return to_device(self.decoder.recall(visit), self.context.device)

    def spare(self, step: int, visit: Visit) -> None:
        """Book a batch of which nothing crosses."""
        self.context.ledger.received(nothing_of(self.link, self.client, step, visit), 0, 0, 0.0)

    def state(self) -> State:
        return self.decoder.state()

    def load(self, state: State) -> None:
        self.decoder.load(state)

    def close(self) -> None:
        self.decoder.store.close()

    def refuse(self, packet: Packet) -> None:
        """Drop our references: the packet was made over others."""
        mine, theirs = self.decoder.store.digest, packet.header.store_digest
        reason = f"{self.link} of client {self.client}: its digest {theirs}, here {mine}"
        record_event(self.context.log, packet.header.step, "resync", reason)
        self.book(packet)
        self.decoder.store.clear()
