"""An edge between a client rank and a server rank: whole packets in, whole packets out, every byte counted.

A packet travels as one message of at most `SLOT` bytes, then one message with the rest, if any. The receiver posts
the slot ahead of time and learns from the header, once it believes it, how long the rest is. A payload that lies on a
device comes last, from device to device; only then does the receiver open a buffer for it.
"""

import time
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from splitcom_dist.codec.wire import HEADER, Expected, Header, join_payload, pack, parse_body, parse_header
from splitcom_dist.comm.failures import naming
from splitcom_dist.links import LINKS

SLOT = 32 * 1024  # bytes; up to here a second message costs more than sending the first one whole


class Pending(Protocol):
    def wait(self) -> object: ...


class Transport(Protocol):
    peer: int  # the rank at the other end

    def send(self, message: Tensor) -> None: ...

    def post_receive(self, buffer: Tensor) -> Pending: ...


class DeviceTransport(Transport, Protocol):
    @property
    def device(self) -> torch.device:
        """Where what it sends and receives lies."""
        ...


class Edge:
    """This rank's end of the edge to `peer` (its name in the layout)."""

    def __init__(self, transport: Transport | None, peer: str, devices: DeviceTransport | None = None) -> None:
        """Without a transport nothing can cross until `connect`; `devices` takes payloads that cross apart."""
        self.peer = peer
        self.waited = 0.0  # seconds spent waiting for the peer's packets
        self._given = transport
        self._devices = devices
        self._slot = torch.empty(SLOT, dtype=torch.uint8)
        self._buffer = self._slot
        self._posted: Pending | None = None

    def connect(self, transport: Transport) -> None:
        """Go on over another transport: to a peer that was lost and has come back."""
        self._given, self._posted = transport, None

    @property
    def _transport(self) -> Transport:
        assert self._given is not None
        return self._given

    def send(self, header: Header, sections: dict[str, Tensor], *, apart: bool = False) -> int:
        """Send one packet, its payload `apart` if it is on a device; returns its size on the wire in bytes."""
        payload = join_payload(sections) if apart else None
        packet = pack(header, sections, payload)
        with self._naming(f"{LINKS[header.link]}, step {header.step}"):
            self._transport.send(packet[:SLOT])
            if len(packet) > SLOT:
                self._transport.send(packet[SLOT:])
            if payload is not None and len(payload):
                assert self._devices is not None
                self._devices.send(payload)
        return len(packet) + (0 if payload is None else len(payload))

    def post(self) -> None:
        """Open the slot for the peer's next packet, so that it can arrive while this rank computes. Raises PeerLost."""
        if self._posted is None:
            with self._naming("the opening of a slot"):
                self._posted = self._transport.post_receive(self._slot)

    def receive(self, expected: Expected) -> tuple[Header, dict[str, Tensor], int]:
        """The next packet: header, sections, size in bytes. Raises WireError or PeerLost.

        Sections are views into a buffer that the next `receive` overwrites. No more than the larger of `SLOT` and
        `expected.max_bytes` is ever allocated.
        """
        self.post()
        assert self._posted is not None
        self._wait(self._posted, expected)
        self._posted = None
        header = parse_header(self._slot, expected)
        total = HEADER.size + header.body_bytes - header.apart_bytes
        packet = self._slot[:total]
        if total > SLOT:
            packet = self._rest(total, expected)
        payload = self._payload(header.apart_bytes, expected) if expected.apart else None
        return header, parse_body(header, packet[HEADER.size :], expected, payload), total + header.apart_bytes

    def _naming(self, what: str) -> AbstractContextManager[None]:
        return naming(self.peer, [self._transport.peer], what)

    def _rest(self, total: int, expected: Expected) -> Tensor:
        if len(self._buffer) < total:
            self._buffer = torch.empty(total, dtype=torch.uint8)
        self._buffer[:SLOT] = self._slot
        with self._naming(f"{LINKS[expected.link]}, step {expected.step}"):
            pending = self._transport.post_receive(self._buffer[SLOT:total])
        self._wait(pending, expected)
        return self._buffer[:total]

    def _payload(self, size: int, expected: Expected) -> Tensor:
        assert self._devices is not None
        payload = torch.empty(size, dtype=torch.uint8, device=self._devices.device)
        if size:
            self._wait(self._devices.post_receive(payload), expected)
        return payload

    def _wait(self, pending: Pending, expected: Expected) -> None:
        started = time.perf_counter()
        with self._naming(f"{LINKS[expected.link]}, step {expected.step}"):
            pending.wait()
        self.waited += time.perf_counter() - started
