"""Who has come is served; nobody waits for a straggler longer than the window, and for a failure not at all."""

import threading
import time
from queue import Queue

import pytest
import torch
from torch import Tensor

from splitcom_dist.codec.header import Expected, Header
from splitcom_dist.codec.wire import pack
from splitcom_dist.comm.arrivals import Arrivals
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.comm.transports import Pending
from splitcom_dist.errors import PeerLost


class Line:
    """A transport whose messages a test puts in; None breaks it."""

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.messages: Queue[Tensor | None] = Queue()

    def send(self, *messages: Tensor) -> None:
        raise AssertionError

    def post_send(self, message: Tensor) -> Pending:
        raise AssertionError

    def post_receive(self, buffer: Tensor) -> "Posted":
        return Posted(self, buffer)


class Posted:
    def __init__(self, line: Line, buffer: Tensor) -> None:
        self.line, self.buffer = line, buffer

    def wait(self) -> None:
        message = self.line.messages.get(timeout=10)
        if message is None:
            raise RuntimeError("Connection closed by peer")
        self.buffer[: len(message)] = message


def packet(client: int) -> Tensor:
    return pack(Header(0, 0, client), {"symbols": torch.full((9,), client, dtype=torch.uint8)})


def expecting(client: int) -> Expected:
    return Expected(f"rank {client}", 0, 0, client, 8, 100, (0, 0, 0, 0, 0, 9))


class Server:
    """Edges to three clients, a packet due on each."""

    def __init__(self, window: float) -> None:
        self.lines = [Line(client) for client in range(3)]
        self.edges = [Edge(line, f"rank {line.peer}") for line in self.lines]
        self.arrivals = Arrivals(window)
        for client, edge in enumerate(self.edges):
            edge.ahead = Ahead.CROSSING
            self.arrivals.attend(edge)
            edge.expect(expecting(client))

    def bring(self, *clients: int, after: float = 0.0) -> None:
        def deliver() -> None:
            for client in clients:
                self.lines[client].messages.put(packet(client))

        threading.Timer(after, deliver).start() if after else deliver()

    def settle(self, *clients: int) -> None:
        """Until these packets are taken in."""
        deadline = time.monotonic() + 5
        while not all(self.edges[client].has_arrived for client in clients):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def here(self) -> list[int]:
        return [self.edges.index(edge) for edge in self.arrivals.wait(self.edges)]


def test_without_a_window_those_that_are_here_are_taken_at_once() -> None:
    server = Server(window=0)
    server.bring(2, 0)
    server.settle(2, 0)
    assert server.here() == [0, 2]
    assert [server.edges[client].receive(expecting(client))[1]["symbols"].tolist() for client in (0, 2)] == [
        [0] * 9,
        [2] * 9,
    ]
    server.bring(1, after=0.05)
    left = [server.edges[1]]
    assert server.arrivals.wait(left) == left, "it is waited for as long as nobody is here"
    assert server.edges[1].receive(expecting(1))[0].client == 1


def test_who_comes_within_the_window_is_taken_along() -> None:
    server = Server(window=30)
    server.bring(0)
    server.bring(1, 2, after=0.1)
    started = time.monotonic()
    assert server.here() == [0, 1, 2]
    assert time.monotonic() - started < 10, "nobody is left to wait for"


def test_a_straggler_is_waited_for_no_longer_than_the_window() -> None:
    server = Server(window=0.2)
    server.bring(0, 1)
    started = time.monotonic()
    assert server.here() == [0, 1]
    assert 0.2 <= time.monotonic() - started < 5
    server.bring(2)


def test_the_window_opens_with_the_first_to_come() -> None:
    server = Server(window=0.2)
    server.bring(1, after=0.4)
    assert server.here() == [1]
    server.bring(0, 2)


def test_a_lost_peer_is_an_arrival_that_raises() -> None:
    server = Server(window=0)
    server.lines[1].messages.put(None)
    assert server.here() == [1]
    with pytest.raises(PeerLost, match="rank 1 is gone"):
        server.edges[1].receive(expecting(1))
    server.bring(0, 2)
