"""An edge between a client rank and a server rank: whole packets in, whole packets out, every byte counted.

A packet travels as one message of at most `SLOT` bytes, then one message with the rest, if any. The receiver posts
the slot ahead of time and learns from the header, once it believes it, how long the rest is. A payload that lies on a
device comes last, from device to device; only then does the receiver open a buffer for it. An edge that runs ahead does
all this while its rank computes: an outbox makes and posts packets, which are waited for at the end of a step, an inbox
receives.
"""

import threading
import time
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from splitcom_dist.codec.header import HEADER, Expected, Header, parse_header
from splitcom_dist.codec.wire import parse_body
from splitcom_dist.comm.background import Background
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.outbox import Act, Ahead, Outbox
from splitcom_dist.comm.transports import SLOT, DeviceTransport, Pending, Transport
from splitcom_dist.devices import HOST, Lane, staging
from splitcom_dist.links import LINKS
from splitcom_dist.openmp import rest_workers

Arrived = tuple[Header, dict[str, Tensor], int]  # a packet with its size in bytes


class Edge:
    """This rank's end of the edge to `peer` (its name in the layout)."""

    def __init__(
        self,
        transport: Transport | None,
        peer: str,
        devices: DeviceTransport | None = None,
        device: torch.device = HOST,
    ) -> None:
        """Without a transport nothing can cross until `connect`; `devices` takes payloads that cross apart. This rank
        computes on `device`."""
        self.peer = peer
        self.waited = 0.0  # seconds spent waiting for the peer's packets
        self.arriving = 0.0  # seconds until the rest of packets that had begun to come was here: the link's own time
        self.bell: threading.Event | None = None  # rung when a packet has come ahead
        self._devices = devices
        self._device = device
        self._slot = torch.empty(SLOT, dtype=torch.uint8)
        self._buffer = self._slot
        self._posted: Pending | None = None
        self._inbox: Background[Expected, tuple[Arrived, float]] | None = None
        self._given = transport
        self._outbox = None if transport is None else self._outbox_for(transport)

    def connect(self, transport: Transport) -> None:
        """Go on over another transport: to a peer that was lost and has come back."""
        self.close()
        self._given, self._outbox = transport, self._outbox_for(transport)
        self._posted, self._slot = None, torch.empty(SLOT, dtype=torch.uint8)

    @property
    def outbox(self) -> Outbox:
        """What leaves here."""
        assert self._outbox is not None
        return self._outbox

    @property
    def ahead(self) -> Ahead:
        """What goes on while this rank computes; until `settle`."""
        return self.outbox.ahead

    @ahead.setter
    def ahead(self, ahead: Ahead) -> None:
        self.outbox.ahead = ahead

    @property
    def sending(self) -> float:
        """Seconds until packets that did not leave ahead were taken: the peer may have been busy with others."""
        return self.outbox.sending

    def do(self, act: Act) -> None:
        """Make a packet and `send` it, and write it down; ahead in a thread, behind what was given before, and with
        `finish`. What goes wrong there is raised where this rank next waits for the peer."""
        if self.ahead is Ahead.ENCODING:
            self._open_inbox()  # before anything can go wrong
        self.outbox.do(act)

    def send(self, header: Header, sections: dict[str, Tensor], *, apart: bool = False) -> int:
        """Send one packet, its payload `apart` if it is on a device; returns its size on the wire in bytes."""
        return self.outbox.send(header, sections, apart=apart)

    def finish(self) -> None:
        """Wait until all packets are made that were to be made ahead, and write them down. Raises what went wrong."""
        self.outbox.finish()

    def settle(self) -> None:
        """Wait until the peer has taken all that was sent, and run ahead no longer. Raises PeerLost."""
        started = time.perf_counter()
        self.outbox.settle()
        self.waited += time.perf_counter() - started

    def close(self) -> None:
        """Make and receive nothing in the background any more."""
        if self._outbox is not None:
            self._outbox.close()
        if self._inbox is not None:
            self._inbox.close()
        self._inbox = None

    def expect(self, expected: Expected) -> None:
        """Let the peer's next packet come while this rank computes: its first message, or ahead all of it.

        Ahead, several can be expected, and `receive` gives them in that order.
        """
        if not self.ahead:
            self.post()
            return
        self._open_inbox().ask(expected)

    @property
    def has_arrived(self) -> bool:
        """Whether a packet that was expected ahead is here, or will never be."""
        return self._inbox is not None and self._inbox.has_arrived

    def post(self) -> None:
        """Open the slot for the peer's next packet, so that it can arrive while this rank computes. Raises PeerLost."""
        if self._posted is None:
            with self._naming("the opening of a slot"):
                self._posted = self._transport.post_receive(self._slot)

    def receive(self, expected: Expected) -> Arrived:
        """The next packet: header, sections, size in bytes. Raises WireError or PeerLost.

        Sections are views into a buffer that the next `receive` overwrites, but for packets that came ahead or go on to
        a device. No more than the larger of `SLOT` and `expected.max_bytes` is ever allocated.
        """
        if not self.has_arrived:
            rest_workers()
        if self._inbox is not None and self._inbox.due:
            started = time.perf_counter()
            arrived, _ = self._inbox.open()
            self.waited += time.perf_counter() - started
            return arrived
        arrived, waited = self._take(expected)
        self.waited += waited
        return arrived

    def _take_whole(self, expected: Expected) -> tuple[Arrived, float]:
        """As `_take`, in memory of its own."""
        self._buffer = self._slot  # the rest of a large packet gets a new one
        (header, sections, size), waited = self._take(expected)
        if self._buffer is self._slot:
            sections = {name: section.clone() for name, section in sections.items()}
        return (header, sections, size), waited

    def _take(self, expected: Expected) -> tuple[Arrived, float]:
        """The next packet, and the seconds that it was waited for."""
        self.post()
        assert self._posted is not None
        waited = self._wait(self._posted, expected)
        self._posted = None
        header = parse_header(self._slot, expected)
        total = HEADER.size + header.body_bytes - header.apart_bytes
        packet, payload = self._slot[:total], None
        if total > SLOT:
            packet, more = self._rest(total, expected)
            waited, self.arriving = waited + more, self.arriving + more
        if expected.apart:
            payload, more = self._payload(header.apart_bytes, expected)
            waited, self.arriving = waited + more, self.arriving + more
        sections = parse_body(header, packet[HEADER.size :], expected, payload)
        return (header, sections, total + header.apart_bytes), waited

    @property
    def _transport(self) -> Transport:
        assert self._given is not None
        return self._given

    def _outbox_for(self, transport: Transport) -> Outbox:
        return Outbox(transport, self.peer, self._devices, Lane(self._device), self._fail)

    def _open_inbox(self) -> Background[Expected, tuple[Arrived, float]]:
        if self._inbox is None:
            self._inbox = Background(self._take_whole, f"from {self.peer}", self.bell)
        return self._inbox

    def _fail(self, error: Exception) -> None:
        """A packet could not be made: who waits for an answer hears of it at once."""
        self._open_inbox().interrupt(error)

    def _naming(self, what: str) -> AbstractContextManager[None]:
        return naming(self.peer, [self._transport.peer], what)

    def _rest(self, total: int, expected: Expected) -> tuple[Tensor, float]:
        if len(self._buffer) < total or self._device.type != "cpu":
            self._buffer = staging(total, self._device)
        self._buffer[:SLOT] = self._slot
        with self._naming(f"{LINKS[expected.link]}, step {expected.step}"):
            pending = self._transport.post_receive(self._buffer[SLOT:total])
        return self._buffer[:total], self._wait(pending, expected)

    def _payload(self, size: int, expected: Expected) -> tuple[Tensor, float]:
        assert self._devices is not None
        payload = torch.empty(size, dtype=torch.uint8, device=self._devices.device)
        return payload, self._wait(self._devices.post_receive(payload), expected) if size else 0.0

    def _wait(self, pending: Pending, expected: Expected) -> float:
        started = time.perf_counter()
        with self._naming(f"{LINKS[expected.link]}, step {expected.step}"):
            pending.wait()
        return time.perf_counter() - started
