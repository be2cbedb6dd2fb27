"""What a process concludes from what it hears of the others, and a heart that beats in a store."""

import threading
import time

import torch.distributed as dist

from splitcom_dist.presence.pulse import GRACE_SECONDS, Fate, Pulse, Signs

LIMIT = 4.0


def signs(**known: object) -> Signs:
    return Signs(LIMIT, essential=[3, 4], told=0.0, **known)  # type: ignore[arg-type]


def test_a_rank_is_silent_once_its_beat_has_stood_still_for_the_limit() -> None:
    known = signs()
    assert not known.silent(1, 100.0), "never heard is not yet silent: it may still be starting"
    for now in (0.0, 1.0, 2.0):
        known.hear(1, int(now), now)
    known.hear(1, 2, 5.0)
    assert not known.silent(1, 2.0 + LIMIT)
    assert known.silent(1, 2.1 + LIMIT)


def test_what_comes_back_begins_with_a_new_patience() -> None:
    known = signs()
    known.hear(1, 7, 0.0)
    assert known.silent(1, 10.0)
    known.hear(1, -1, 10.0)
    assert not known.silent(1, 10.0 + LIMIT)


def test_only_the_loss_of_who_nobody_can_do_without_is_fate() -> None:
    known = signs()
    for rank in (1, 3, 4):
        known.hear(rank, 0, 0.0)
    known.told = 4.5
    assert known.fate(LIMIT) is None
    known.hear(3, 1, 4.5)
    known.hear(4, 1, 4.5)
    assert known.fate(4.6) is None, "rank 1 is a client"
    known.hear(3, 2, 8.0)
    known.told = 8.6
    assert known.fate(8.6) is Fate.ALONE, "rank 4 has stood still"


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
