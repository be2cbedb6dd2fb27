"""The first signal asks, its echoes change nothing, a later one ends."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from splitcom_dist.checkpoints.signals import ASKING, RESUME_ME, StopSignals


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*ASKING, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for_two() -> None:
    signals = StopSignals()
    signals.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.caught == "SIGUSR1"
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def test_a_later_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitcom_dist.checkpoints.signals.ECHO_SECONDS", 0.2)
    process = multiprocessing.get_context("fork").Process(target=wait_for_two)
    process.start()
    process.join(timeout=20)
    assert process.exitcode == -signal.SIGTERM


def leave_after_one() -> None:
    signals = StopSignals()
    signals.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    signals.ignore()
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(RESUME_ME)


def test_a_rank_that_has_saved_leaves_with_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitcom_dist.checkpoints.signals.ECHO_SECONDS", 0.0)
    process = multiprocessing.get_context("fork").Process(target=leave_after_one)
    process.start()
    process.join(timeout=20)
    assert process.exitcode == RESUME_ME


@pytest.mark.parametrize("number", ASKING)
def test_the_first_is_only_noted(number: signal.Signals) -> None:
    signals = StopSignals()
    signals.listen()
    assert signals.caught is None
    os.kill(os.getpid(), number)
    assert signals.caught == number.name


def test_an_interrupt_is_noted_where_python_drops_what_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals = StopSignals()
    signals.listen()
    signals.raise_if_interrupted()
    thing = threading.Event()
    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    assert watched() is None and len(dropped) == 1 and signals.caught is None
    with pytest.raises(KeyboardInterrupt):
        signals.raise_if_interrupted()


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    StopSignals().listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
