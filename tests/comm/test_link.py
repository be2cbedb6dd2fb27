"""An edge delivers packets whole, counts every byte, and refuses what it should not believe."""

import itertools
from queue import SimpleQueue

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.wire import HEADER, Expected, Header
from splitcom_dist.comm.link import SLOT, Edge
from splitcom_dist.errors import PeerLost, WireError


class Loopback:
    """A transport with Gloo's manners: a message may be shorter than the posted buffer, a longer one is fatal."""

    peer = 1

    def __init__(self, out: "SimpleQueue[Tensor]", into: "SimpleQueue[Tensor]") -> None:
        self.out, self.into = out, into
        self.sent_bytes = 0

    def send(self, message: Tensor) -> None:
        self.sent_bytes += message.numel()
        self.out.put(message.clone())

    def post_receive(self, buffer: Tensor) -> "Arrival":
        return Arrival(self.into, buffer)


class Arrival:
    def __init__(self, queue: "SimpleQueue[Tensor]", buffer: Tensor) -> None:
        self.queue, self.buffer = queue, buffer

    def wait(self) -> None:
        if self.queue.empty():
            raise RuntimeError("Timed out waiting 1000ms for recv operation to complete")
        message = self.queue.get()
        assert len(message) <= len(self.buffer), "Gloo would abort the process here"
        self.buffer[: len(message)] = message


def pair() -> tuple[Edge, Edge, Loopback]:
    one: SimpleQueue[Tensor] = SimpleQueue()
    two: SimpleQueue[Tensor] = SimpleQueue()
    sender = Loopback(one, two)
    return Edge(sender, "rank 1 (server)"), Edge(Loopback(two, one), "rank 0 (client 0)"), sender


def expecting(symbols: int, step: int = 0) -> Expected:
    return Expected("rank 0 (client 0)", 0, step, 0, 8, 10**6, (0, 0, 0, 0, 0, symbols))


@given(sizes=st.lists(st.integers(0, 3 * SLOT), min_size=1, max_size=6))
def test_packets_of_any_size_arrive_whole_and_are_counted(sizes: list[int]) -> None:
    left, right, wire = pair()
    for step, size in enumerate(sizes):
        body = torch.randint(0, 256, (size,), dtype=torch.uint8)
        before = wire.sent_bytes
        sent = left.send(Header(0, step, 0, tokens=0), {"symbols": body})
        header, sections, received = right.receive(expecting(size, step))
        assert sent == received == wire.sent_bytes - before == HEADER.size + size
        assert header.step == step and torch.equal(sections["symbols"], body)


@pytest.mark.parametrize("size", [0, SLOT - HEADER.size - 1, SLOT - HEADER.size, SLOT - HEADER.size + 1, 2 * SLOT])
def test_small_packets_are_one_message_and_large_ones_two(size: int) -> None:
    left, right, wire = pair()
    left.send(Header(0, 0, 0), {"symbols": torch.zeros(size, dtype=torch.uint8)})
    assert wire.out.qsize() == (1 if size + HEADER.size <= SLOT else 2)
    right.receive(expecting(size))


def test_a_packet_beyond_the_limit_is_refused_before_its_rest_is_received() -> None:
    left, right, wire = pair()
    left.send(Header(0, 0, 0), {"symbols": torch.zeros(5 * SLOT, dtype=torch.uint8)})
    with pytest.raises(WireError, match="symbols_bytes"):
        right.receive(expecting(4 * SLOT))
    assert wire.out.qsize() == 1, "the rest must lie unread"
    assert len(right._buffer) == SLOT, "and no buffer may have been made for it"


def test_a_late_packet_of_another_step_is_refused() -> None:
    left, right, _ = pair()
    left.send(Header(0, 3, 0), {})
    with pytest.raises(WireError, match=r"rank 0 \(client 0\), up_activation, step 4: step: 3, 4 expected"):
        right.receive(expecting(0, step=4))


def test_a_posted_slot_is_used_once() -> None:
    left, right, _ = pair()
    right.post()
    right.post()
    for step in range(3):
        left.send(Header(0, step, 0), {"symbols": torch.full((5,), step, dtype=torch.uint8)})
        _, sections, _ = right.receive(expecting(5, step))
        assert sections["symbols"].tolist() == [step] * 5
        right.post()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Timed out waiting 1000ms", "was silent for longer"), ("Connection closed by peer", "is gone")],
)
def test_a_lost_peer_is_named_with_what_was_under_way(text: str, reason: str) -> None:
    class Broken:
        peer = 1

        def send(self, message: Tensor) -> None:
            raise RuntimeError(f"[pair.cc:553] {text} [127.0.0.1]:25306")

        def post_receive(self, buffer: Tensor) -> Arrival:
            raise AssertionError

    with pytest.raises(PeerLost, match=rf"rank 1 \(server\) {reason}.* during up_activation, step 7"):
        Edge(Broken(), "rank 1 (server)").send(Header(0, 7, 0), {})


def test_random_messages_never_get_past_the_header() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in itertools.chain(range(0, 400, 7), (SLOT - 1, SLOT)):
        _, right, wire = pair()
        wire.out.put(torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator))
        with pytest.raises(WireError):
            right.receive(expecting(100))
