"""What a process concludes from what it hears of the others, and a heart that beats in a store."""

import threading
import time

import torch.distributed as dist

from splitcom_dist.presence.pulse import GRACE_SECONDS, Fate, Pulse, Signs

LIMIT = 4.0


def signs(**known: object) -> Signs:
    return Signs(LIMIT, essential=[3, 4], told=0.0, **known)  # type: ignore[arg-type]


def listen(known: Signs, seconds: float, **beats: int) -> None:
    """Look every second for so long, while other ranks have these beats: r3=7."""
    for _ in range(int(seconds)):
        known.look(known.told + 1.0)
        for name, beat in beats.items():
            known.hear(int(name.removeprefix("r")), beat)


def test_a_rank_is_silent_once_its_beat_has_stood_still_for_the_limit() -> None:
    known = signs()
    listen(known, 100)
    assert not known.silent(1), "never heard is not yet silent: it may still be starting"
    for beat in range(5):
        listen(known, 3, r1=beat)
    assert not known.silent(1)
    listen(known, 2, r1=4)
    assert not known.silent(1), "four seconds since it was new"
    listen(known, 1, r1=4)
    assert known.silent(1)


def test_nobody_is_silent_while_this_process_is_stopped() -> None:
    known = signs()
    listen(known, 3, r3=1, r4=1)
    known.look(known.told + 60.0)
    assert not known.silent(3) and known.fate(known.told) is None, "it has slept for a minute"
    known.hear(3, 2)
    listen(known, 3, r3=2, r4=1)
    assert known.fate(known.told) is Fate.ALONE and known.silent(4) and not known.silent(3)


def test_what_comes_back_begins_with_a_new_patience() -> None:
    known = signs()
    listen(known, 10, r1=7)
    assert known.silent(1)
    known.hear(1, -1)
    assert not known.silent(1)


def test_only_the_loss_of_who_nobody_can_do_without_is_fate() -> None:
    known = signs()
    listen(known, 1, r1=0, r3=0, r4=0)
    for beat in range(6):
        listen(known, 1, r1=0, r3=beat, r4=beat)
    assert known.silent(1) and known.fate(known.told) is None, "rank 1 is a client"
    for beat in range(6, 12):
        listen(known, 1, r3=beat, r4=5)
    assert known.fate(known.told) is Fate.ALONE, "rank 4 has stood still"


def test_own_loss_and_isolation_come_before_the_failure_of_others() -> None:
    assert signs().fate(LIMIT + 0.1) is Fate.CUT_OFF
    assert signs(lost=True).fate(1.0) is Fate.LOST
    failed = signs(failed=0.0)
    failed.told = GRACE_SECONDS
    assert failed.fate(GRACE_SECONDS) is None, "the main thread gets time to leave by itself"
    failed.told = GRACE_SECONDS + 1
    assert failed.fate(GRACE_SECONDS + 1) is Fate.FAILED


def test_a_pulse_hears_another_until_it_rests_and_tells_its_fate_once() -> None:
    store, ends = dist.HashStore(), list[Fate]()
    one = Pulse(store, 3, "lost/3/0", [4], [3, 4], 0.8, lambda fate, silent: ends.append(fate))
    two = Pulse(store, 4, "lost/4/0", [3], [3, 4], 0.8, lambda fate, silent: None)
    for pulse in (one, two):
        pulse.start()
    time.sleep(1.6)
    assert not ends and not one.silent(4), "two hearts beat"
    two.rest()
    deadline = time.monotonic() + 10
    while not ends and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ends == [Fate.ALONE]
    one.rest()
    assert threading.active_count() < 50
