"""An edge delivers packets whole, counts every byte, and refuses what it should not believe."""

import itertools
import time
from queue import Queue, SimpleQueue
from typing import TypeAlias

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.header import HEADER, Expected, Header
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.comm.transports import SLOT
from splitcom_dist.errors import PeerLost, WireError

AnyQueue: TypeAlias = "SimpleQueue[Tensor] | Queue[Tensor]"


class Loopback:
    """A transport with Gloo's manners: a message may be shorter than the posted buffer, a longer one is fatal."""

    peer = 1

    def __init__(self, out: AnyQueue, into: AnyQueue) -> None:
        self.out, self.into = out, into
        self.sent_bytes = 0
        self.waited = 0

    def send(self, *messages: Tensor) -> None:
        for message in messages:
            self.sent_bytes += message.numel()
            self.out.put(message.clone())

    def post_send(self, message: Tensor) -> "Departure":
        return Departure(self, message)

    def post_receive(self, buffer: Tensor) -> "Arrival":
        return Arrival(self.into, buffer)


class Departure:
    """It leaves at once; what is counted is that somebody waits for it."""

    def __init__(self, transport: Loopback, message: Tensor) -> None:
        transport.send(message)
        self.transport = transport

    def wait(self) -> None:
        self.transport.waited += 1


class Arrival:
    def __init__(self, queue: AnyQueue, buffer: Tensor) -> None:
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


def expecting(symbols: int, step: int = 0, apart: bool = False) -> Expected:
    return Expected("rank 0 (client 0)", 0, step, 0, 8, 10**6, (0, 0, 0, 8, 8, symbols), apart=apart)


class DeviceLoopback(Loopback):
    """A transport with NCCL's manners: a message has exactly the length of the buffer, or nothing good comes of it."""

    device = torch.device("cpu")
    out: "Queue[Tensor]"
    into: "Queue[Tensor]"

    def post_receive(self, buffer: Tensor) -> "Arrival":
        assert len(self.into.queue[0]) == len(buffer)
        return Arrival(self.into, buffer)


def pair_with_devices() -> tuple[Edge, Edge, Loopback, DeviceLoopback]:
    one: SimpleQueue[Tensor] = SimpleQueue()
    two: SimpleQueue[Tensor] = SimpleQueue()
    wire, devices = Loopback(one, two), DeviceLoopback(Queue(), Queue())
    receiving = DeviceLoopback(devices.into, devices.out)
    sender = Edge(wire, "rank 1 (server)", devices)
    return sender, Edge(Loopback(two, one), "rank 0 (client 0)", receiving), wire, devices


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


class Slow(Loopback):
    """A transport that is busy for a while with every message, at both ends."""

    seconds = 0.05

    def send(self, *messages: Tensor) -> None:
        time.sleep(self.seconds * len(messages))
        super().send(*messages)

    def post_receive(self, buffer: Tensor) -> "Arrival":
        return SlowArrival(self.into, buffer)


class SlowArrival(Arrival):
    def wait(self) -> None:
        time.sleep(Slow.seconds)
        super().wait()


@pytest.mark.parametrize(("size", "messages"), [(100, 1), (3 * SLOT, 2)])
def test_what_a_peer_takes_its_time_for_is_told_apart(size: int, messages: int) -> None:
    queue: SimpleQueue[Tensor] = SimpleQueue()
    sender, receiver = (Edge(Slow(queue, queue), name) for name in ("rank 1 (server)", "rank 0 (client 0)"))
    sender.send(Header(link=0, step=0, client=0), {"symbols": torch.zeros(size, dtype=torch.uint8)})
    receiver.receive(expecting(size))
    assert messages * Slow.seconds <= sender.sending < 1 and sender.waited == 0
    assert receiver.waited >= messages * Slow.seconds
    assert (messages - 1) * Slow.seconds <= receiver.arriving <= receiver.waited - Slow.seconds


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


@given(sizes=st.lists(st.integers(0, 3 * SLOT), min_size=1, max_size=6))
def test_packets_that_come_ahead_are_kept_until_they_are_read(sizes: list[int]) -> None:
    left, right, wire = pair()
    left.ahead = right.ahead = Ahead.CROSSING
    bodies = [torch.randint(0, 256, (size,), dtype=torch.uint8) for size in sizes]
    for step, body in enumerate(bodies):
        left.send(Header(0, step, 0), {"symbols": body})
    assert wire.waited == 0
    for step, size in enumerate(sizes):
        right.expect(expecting(size, step))
    arrived = [right.receive(expecting(size, step)) for step, size in enumerate(sizes)]
    for step, (header, sections, received) in enumerate(arrived):
        assert (header.step, received) == (step, HEADER.size + sizes[step])
        assert torch.equal(sections["symbols"], bodies[step])
    left.settle()
    messages = sum(1 if size + HEADER.size <= SLOT else 2 for size in sizes)
    assert wire.waited == messages
    left.send(Header(0, len(sizes), 0), {})
    right.settle()
    right.receive(expecting(0, len(sizes)))
    left.settle()
    right.close()
    assert wire.waited == messages, "it runs ahead no longer"


def test_what_comes_ahead_is_checked_too_and_refused_where_it_is_read() -> None:
    left, right, _ = pair()
    right.ahead = Ahead.CROSSING
    left.send(Header(0, 3, 0), {})
    right.expect(expecting(0, step=4))
    with pytest.raises(WireError, match="step: 3, 4 expected"):
        right.receive(expecting(0, step=4))
    right.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Timed out waiting 1000ms", "was silent for longer"), ("Connection closed by peer", "is gone")],
)
def test_a_lost_peer_is_named_with_what_was_under_way(text: str, reason: str) -> None:
    class Broken:
        peer = 1

        def send(self, *messages: Tensor) -> None:
            raise RuntimeError(f"[pair.cc:553] {text} [127.0.0.1]:25306")

        def post_send(self, message: Tensor) -> Departure:
            raise AssertionError

        def post_receive(self, buffer: Tensor) -> Arrival:
            raise AssertionError

    with pytest.raises(PeerLost, match=rf"rank 1 \(server\) {reason}.* during up_activation, step 7"):
        Edge(Broken(), "rank 1 (server)").send(Header(0, 7, 0), {})


@given(sizes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2 * SLOT)), min_size=1, max_size=5))
def test_a_payload_crosses_apart_and_is_counted(sizes: list[tuple[int, int]]) -> None:
    left, right, wire, devices = pair_with_devices()
    for step, (scales, symbols) in enumerate(sizes):
        sent = {
            "modes": torch.tensor([7], dtype=torch.uint8),
            "scales": torch.randint(0, 256, (scales,), dtype=torch.uint8),
            "symbols": torch.randint(0, 256, (symbols,), dtype=torch.uint8),
        }
        before = wire.sent_bytes, devices.sent_bytes
        count = left.send(Header(0, step, 0), sent, apart=True)
        assert wire.sent_bytes - before[0] == HEADER.size + 1, "nothing of the payload is in the message"
        assert devices.sent_bytes - before[1] == scales + symbols
        _, sections, received = right.receive(expecting(symbols, step, apart=True))
        assert count == received == HEADER.size + 1 + scales + symbols
        assert all(sections[name].equal(part) for name, part in sent.items())


def test_a_payload_is_only_received_after_its_header_is_believed() -> None:
    left, right, _, devices = pair_with_devices()
    left.send(Header(0, 0, 0), {"symbols": torch.zeros(100, dtype=torch.uint8)}, apart=True)
    with pytest.raises(WireError, match="symbols_bytes: 100 is not within 0 and 99"):
        right.receive(expecting(99, apart=True))
    assert devices.out.qsize() == 1


@pytest.mark.parametrize("apart", [False, True])
def test_where_a_payload_is_must_be_as_agreed(apart: bool) -> None:
    left, right, _, _ = pair_with_devices()
    left.send(Header(0, 0, 0), {"symbols": torch.zeros(9, dtype=torch.uint8)}, apart=apart)
    with pytest.raises(WireError, match=r"flags: \d is not allowed here"):
        right.receive(expecting(9, apart=not apart))


def test_a_payload_that_is_not_what_was_sent_is_refused() -> None:
    left, right, _, devices = pair_with_devices()
    left.send(Header(0, 0, 0), {"symbols": torch.zeros(9, dtype=torch.uint8)}, apart=True)
    devices.out.queue[0][3] ^= 16
    with pytest.raises(WireError, match="up_activation, step 0: body_checksum"):
        right.receive(expecting(9, apart=True))


def test_random_messages_never_get_past_the_header() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in itertools.chain(range(0, 400, 7), (SLOT - 1, SLOT)):
        _, right, wire = pair()
        wire.out.put(torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator))
        with pytest.raises(WireError):
            right.receive(expecting(100))
