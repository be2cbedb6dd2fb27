"""Packets that a thread makes leave in the order in which they were given, and who waits hears what goes wrong."""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import pytest
import torch
from test_link import Arrival, Loopback, expecting, pair
from torch import Tensor

from splitcom_dist.codec.header import Header
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.errors import UserError

PATIENCE = 5.0  # seconds


def test_a_rank_goes_on_while_packets_are_made_and_they_leave_in_order() -> None:
    left, right, _ = pair()
    left.ahead = Ahead.ENCODING
    may_go_on, made, books = threading.Event(), [], []

    def make(step: int) -> Callable[[], None]:
        assert may_go_on.wait(PATIENCE)
        made.append((step, threading.current_thread()))
        left.send(Header(0, step, 0), {"symbols": torch.full((5,), step, dtype=torch.uint8)})
        return lambda: books.append((step, threading.current_thread()))

    for step in range(4):
        left.do(partial(make, step))
    assert not made, "this thread has come here first"
    may_go_on.set()
    left.settle()
    assert [step for step, _ in made] == [0, 1, 2, 3]
    assert all(thread is not threading.current_thread() for _, thread in made)
    assert books == [(step, threading.current_thread()) for step in range(4)], "one hand writes them"
    for step in range(4):
        _, sections, _ = right.receive(expecting(5, step))
        assert sections["symbols"].tolist() == [step] * 5
    left.close()


@pytest.mark.parametrize("ahead", [Ahead.NOTHING, Ahead.CROSSING])
def test_without_encoding_ahead_it_is_done_at_once(ahead: Ahead) -> None:
    left, _, _ = pair()
    left.ahead = ahead
    made: list[str] = []

    def make() -> Callable[[], None]:
        made.append("sent")
        return lambda: made.append("written down")

    left.do(make)
    assert made == ["sent", "written down"]


def sent(edge: Edge, step: int) -> Callable[[], None]:
    edge.send(Header(0, step, 0), {})
    return lambda: None


def test_to_finish_is_to_have_made_all_packets() -> None:
    left, _, wire = pair()
    left.ahead = Ahead.ENCODING
    for step in range(20):
        left.do(partial(sent, left, step))
    left.finish()
    assert (wire.out.qsize(), wire.waited) == (20, 0), "made, but nobody has waited for the peer"
    left.settle()
    assert wire.waited == 20
    left.close()


class Silent(Loopback):
    """A peer that answers once `gone` is set."""

    def __init__(self) -> None:
        super().__init__(SimpleQueue(), SimpleQueue())
        self.gone = threading.Event()

    def post_receive(self, buffer: Tensor) -> "Arrival":
        return Never(self)


class Never(Arrival):
    def __init__(self, peer: Silent) -> None:
        self.peer = peer

    def wait(self) -> None:
        self.peer.gone.wait(PATIENCE)
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize("expected_first", [False, True])
def test_who_waits_for_an_answer_hears_that_nothing_was_sent(expected_first: bool) -> None:
    peer = Silent()
    edge = Edge(peer, "rank 1 (server)")
    edge.ahead = Ahead.ENCODING
    due = threading.Event()

    def refuse() -> Callable[[], None]:
        assert due.wait(PATIENCE)
        raise UserError("codec.store: the disk is full")

    if not expected_first:
        due.set()
    edge.do(refuse)
    edge.expect(expecting(5))
    due.set()
    with pytest.raises(UserError, match="the disk is full"):
        edge.receive(expecting(5))
    assert not peer.gone.is_set(), "not because the peer has given up"
    with pytest.raises(UserError, match="the disk is full"):
        edge.settle()
    peer.gone.set()
    edge.close()


def test_what_was_to_be_sent_behind_a_failure_is_not_made() -> None:
    left, _, wire = pair()
    left.ahead = Ahead.ENCODING
    made: list[int] = []

    def refuse() -> Callable[[], None]:
        raise UserError("no")

    left.do(refuse)
    left.do(lambda: made.append(1) or sent(left, 1))  # type: ignore[func-returns-value]
    left.close()
    assert not made and wire.out.empty()
