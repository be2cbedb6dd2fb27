"""The sending half of an edge: packets leave whole and in order, at once or while their rank computes.

A thread may make them, too: what it is given encodes a packet and posts it, behind what was given before. So the order
of packets, and what every encoder has seen before each of them, is that of a rank which does one thing at a time. What
is to be written down of them comes back to the rank's own thread: books have one hand, and one order.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

from torch import Tensor

from splitcom_dist.codec.header import Header
from splitcom_dist.codec.wire import in_messages, join_payload
from splitcom_dist.comm.background import Background
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.transports import SLOT, DeviceTransport, Pending, Transport
from splitcom_dist.devices import Lane
from splitcom_dist.links import LINKS

Act = Callable[[], Callable[[], object]]  # makes and sends a packet; what it returns writes down that it has


class Ahead(IntEnum):
    """What goes on while a rank computes."""

    NOTHING = 0
    CROSSING = 1  # packets leave and arrive
    ENCODING = 2  # and they are made


class Outbox:
    """To `peer` (its name in the layout); the thread computes on `lane`, and tells `failed` what went wrong there."""

    def __init__(
        self,
        transport: Transport,
        peer: str,
        devices: DeviceTransport | None,
        lane: Lane,
        failed: Callable[[Exception], None],
    ) -> None:
        self.ahead = Ahead.NOTHING
        self.sending = 0.0  # seconds until packets were taken, of those that did not leave ahead
        self._transport = transport
        self._peer = peer
        self._devices = devices
        self._lane = lane
        self._failed = failed
        self._desk: Background[Act, Callable[[], object]] | None = None
        self._under_way: list[tuple[str, Tensor, Pending]] = []  # of what, and what must stay in memory

    def do(self, act: Act) -> None:
        """Make a packet and `send` it, and write it down: at once, or ahead in the thread and with `finish`."""
        if self.ahead < Ahead.ENCODING:
            act()()
            return
        if self._desk is None:
            self._desk = Background(self._act, f"to {self._peer}")
        self._desk.ask(self._lane.aside(act))

    def send(self, header: Header, sections: dict[str, Tensor], *, apart: bool = False) -> int:
        """Send one packet, its payload `apart` if it is on a device; returns its size on the wire in bytes."""
        payload = join_payload(sections) if apart else None
        messages = in_messages(header, sections, SLOT, payload)
        what, started = f"{LINKS[header.link]}, step {header.step}", time.perf_counter()
        with naming(self._peer, [self._transport.peer], what):
            if self.ahead:
                self._under_way += [(what, message, self._transport.post_send(message)) for message in messages]
            else:
                self._transport.send(*messages)
            if payload is not None and len(payload):
                assert self._devices is not None
                self._devices.send(payload)
        if not self.ahead:
            self.sending += time.perf_counter() - started
        return sum(map(len, messages)) + (0 if payload is None else len(payload))

    def finish(self) -> None:
        """Wait until all packets are made that were to be made ahead, and write them down. Raises what went wrong."""
        while self._desk is not None and self._desk.due:
            self._desk.open()()

    def settle(self) -> None:
        """Wait until the peer has taken all that was sent, and run ahead no longer. Raises PeerLost."""
        self.finish()
        self.ahead = Ahead.NOTHING
        while self._under_way:
            what, _, pending = self._under_way.pop(0)
            with naming(self._peer, [self._transport.peer], what):
                pending.wait()

    def close(self) -> None:
        """Make no packets in the background any more; those that are under way are left to their fate."""
        if self._desk is not None:
            with suppress(Exception):  # it was told when it happened
                self.finish()
            self._desk.close()
        self._desk = None

    def _act(self, act: Act) -> Callable[[], object]:
        try:
            return act()
        except Exception as error:
            self._failed(error)
            raise
