"""Point-to-point over TCP sockets: one connection an edge, messages are uint8 vectors, each behind its length.

Beside Gloo: no rendezvous for a message, which may be on its way before the peer asks for it, and one that is longer
than what was due is refused instead of aborting the process. The kernel buffers some megabytes in each direction, so a
send can return before the peer has read anything; what moves in one call, though, is still in the caches of those who
read it next.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.background import Background
from splitcom_dist.comm.tcp_meeting import accept, connect
from splitcom_dist.errors import WireError

T = TypeVar("T")

PIECE, AT_ONCE = 2**18, 4  # bytes of a part; parts that one call sends
LENGTH = struct.Struct("<q")  # of a message, bytes; not counted, as TCP's headers are not


class TcpPair:
    """The channel from this rank to `peer`."""

    def __init__(
        self, store: dist.Store, name: str, rank: int, peer: int, timeout_seconds: float, host: str = "127.0.0.1"
    ) -> None:
        """Meet the peer under `name`, within the timeout, which every later wait has too; `host` is this rank's address
        for others. RuntimeError if it fails."""
        self.peer = peer
        key, deadline = f"tcp/{name}", time.monotonic() + timeout_seconds
        try:
            self._socket = accept(store, key, host, deadline) if rank > peer else connect(store, key, deadline)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise RuntimeError(f"no connection with rank {peer}: {error}") from error
        self._socket.settimeout(timeout_seconds)
        self._writer: Background[Tensor, None] | None = None

    def send(self, *messages: Tensor) -> None:
        """Send vectors, one after the other; returns when the kernel has them. RuntimeError if it cannot."""
        parts = [memoryview(part) for each in messages for part in (LENGTH.pack(len(each)), each.numpy().data)]
        left = [part[start : start + PIECE] for part in parts for start in range(0, len(part), PIECE)]
        while left:
            moved = self._moved(self._socket.sendmsg, left[:AT_ONCE])
            while left and moved >= len(left[0]):
                moved -= len(left.pop(0))
            if moved:
                left[0] = left[0][moved:]

    def post_send(self, message: Tensor) -> "Sending":
        """Start sending a vector, behind those that are under way; `wait()` on the result, in the order of the
        calls, raises RuntimeError on loss or timeout. No `send` before the last of them has been waited for."""
        if self._writer is None:
            self._writer = Background(self.send, f"to rank {self.peer}")
        self._writer.ask(message)
        return Sending(self._writer)

    def post_receive(self, buffer: Tensor) -> "Receiving":
        """Open `buffer` for the next vector; `wait()` on the result, in the order of the calls, takes it: RuntimeError
        on loss or timeout, WireError if it is longer."""
        return Receiving(self, buffer)

    def receive(self, buffer: Tensor) -> None:
        """Take the next vector; a shorter one leaves the tail of `buffer` as it was."""
        prefix = bytearray(LENGTH.size)
        self._fill(memoryview(prefix))
        (size,) = LENGTH.unpack(prefix)
        if not 0 <= size <= len(buffer):
            self._end()
            raise WireError("message: longer than what was due here")
        self._fill(buffer.numpy().data[:size])

    def _fill(self, view: memoryview) -> None:
        while view:
            if not (moved := self._moved(self._socket.recv_into, view[:PIECE])):
                self._end()
                raise RuntimeError("Connection closed by peer")
            view = view[moved:]

    def _moved(self, call: Callable[[T], int], what: T) -> int:
        """Bytes that the kernel has moved. RuntimeError on loss or timeout, which ends the connection for both."""
        try:
            return call(what)
        except OSError as error:  # TimeoutError is one: "timed out"
            self._end()
            raise RuntimeError(f"Connection lost: {error}") from error

    def _end(self) -> None:
        """Both ends hear of it, also a thread of ours that waits here: closed, its number could be another's."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Receiving:
    """A message that is due."""

    def __init__(self, pair: TcpPair, buffer: Tensor) -> None:
        self._pair, self._buffer = pair, buffer

    def wait(self) -> None:
        self._pair.receive(self._buffer)


class Sending:
    """A message under way."""

    def __init__(self, writer: Background[Tensor, None]) -> None:
        self._writer = writer

    def wait(self) -> None:
        """Until the kernel has it. Raises RuntimeError if it, or one before it, could not be sent."""
        self._writer.open()
