"""Packets come in the order in which they were asked for, and a failure in the background is the reader's."""

import threading
from queue import SimpleQueue

import pytest

from splitcom_dist.codec.header import Expected
from splitcom_dist.comm.background import Background
from splitcom_dist.errors import PeerLost


def expecting(step: int) -> Expected:
    return Expected("rank 0 (client 0)", 0, step, 0, 8, 100, (0,) * 6)


def test_packets_are_taken_while_nobody_waits_and_opened_in_order() -> None:
    taken = threading.Event()

    def take(expected: Expected) -> int:
        if expected.step == 3:
            taken.set()
        return expected.step

    inbox = Background(take, "test")
    for step in range(4):
        inbox.ask(expecting(step))
    assert taken.wait(5) and inbox.due == 4, "nobody has opened one"
    assert [inbox.open() for _ in range(4)] == [0, 1, 2, 3] and inbox.due == 0
    inbox.close()
    assert not inbox._thread.is_alive()


def test_what_fails_in_the_background_is_raised_for_it_and_all_behind() -> None:
    asked: SimpleQueue[int] = SimpleQueue()

    def take(expected: Expected) -> int:
        asked.put(expected.step)
        if expected.step == 1:
            raise PeerLost("rank 0 (client 0) is gone during up_activation, step 1", (0,))
        return expected.step

    inbox = Background(take, "test")
    for step in range(3):
        inbox.ask(expecting(step))
    assert inbox.open() == 0
    for _ in range(2):
        with pytest.raises(PeerLost, match="step 1"):
            inbox.open()
    inbox.close()
    assert asked.qsize() == 2, "nothing is received behind a failure"
