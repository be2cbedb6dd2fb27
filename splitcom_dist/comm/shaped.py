"""A slow link between a client rank and the others, where the network is fast: messages are held back, not their bytes.

The sender holds a message until it would have arrived, so no two clocks are compared and any transport can be shaped.
Counted are the bytes handed to the transport, without headers of TCP and IP. Reports and verdicts, which go through the
store, and the servers' adapters are not held back; launch/wan.sh slows all that clients send and receive.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from torch import Tensor

from splitcom_dist.comm.transports import Pending, Transport


class Link:
    """One direction of a link that sends one message after the other: a token bucket that holds no burst."""

    def __init__(self, mbit: float, delay_ms: float) -> None:
        """`mbit` 10^6 bits a second, 0 without limit; `delay_ms` one way."""
        self._seconds_a_byte = 8 / (mbit * 1e6) if mbit else 0.0
        self._delay = delay_ms / 1e3
        self._free = 0.0  # when the last byte of the last message has left

    def arrival(self, size: int, now: float) -> float:
        """When a message of `size` bytes given at `now` (seconds) arrives: size / rate after the link is free, and the
        delay later."""
        self._free = max(now, self._free) + size * self._seconds_a_byte
        return self._free + self._delay


class OnItsWay:
    """A message that the link has."""

    def wait(self) -> None:
        """At once; the next `send` tells if it could not be delivered."""


class ShapedTransport:
    """A transport whose messages arrive as over `link`. What is received is shaped at its sender."""

    def __init__(
        self,
        transport: Transport,
        link: Link,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.peer = transport.peer
        self._transport = transport
        self._link = link
        self._now, self._sleep = now, sleep
        self._under_way: SimpleQueue[tuple[float, Tensor]] = SimpleQueue()
        self._failure: RuntimeError | None = None
        threading.Thread(target=self._deliver, daemon=True).start()

    def send(self, *messages: Tensor) -> None:
        """Put copies of uint8 vectors on the link. RuntimeError if an earlier one could not be delivered."""
        if self._failure is not None:
            raise self._failure
        for message in messages:
            self._under_way.put((self._link.arrival(len(message), self._now()), message.clone()))

    def post_send(self, message: Tensor) -> Pending:
        """As `send`, which waits for nothing."""
        self.send(message)
        return OnItsWay()

    def post_receive(self, buffer: Tensor) -> Pending:
        return self._transport.post_receive(buffer)

    def _deliver(self) -> None:
        while self._failure is None:
            due, message = self._under_way.get()
            if (ahead := due - self._now()) > 0:
                self._sleep(ahead)
            try:
                self._transport.send(message)
            except RuntimeError as error:
                self._failure = error


def hold(size: int, since: float, up: Link, down: Link) -> None:
    """Wait as long as averaging takes through a rank's link: its share of `size` bytes goes up from `since` on, then
    a mean of the same size comes down."""
    back = down.arrival(size, up.arrival(size, since))
    time.sleep(max(0.0, back - time.perf_counter()))
