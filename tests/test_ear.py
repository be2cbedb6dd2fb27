"""The ear rings when a key is there, not before, and leaves the connection of everybody else alone."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from splitcom_dist import board
from splitcom_dist.board import Board
from splitcom_dist.config.files import load_config
from splitcom_dist.ear import Ear
from splitcom_dist.layout import layout_for


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    yield dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))


def test_it_rings_once_the_key_is_there(store: dist.TCPStore) -> None:
    ear = Ear(store.clone)  # type: ignore[attr-defined]
    for key in ("one", "two"):
        bell = ear.listen(key)
        assert not bell.wait(0.2)
        assert store.add("meanwhile", 1) > 0, "others use the store"
        store.set(key, "told")
        assert bell.wait(5)


def test_a_store_that_has_gone_rings_too() -> None:
    def gone() -> dist.Store:
        raise RuntimeError("Broken pipe")

    assert Ear(gone).listen("key").wait(5)


def test_who_waits_by_name_does_not_sleep_until_the_next_look(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a look between rings would take a minute, the answer is there when the key is."""
    monkeypatch.setattr(board, "NAP_SECONDS", (60.0, 60.0))
    told = threading.Timer(0.2, store.clone().set, ("key", "told"))  # type: ignore[attr-defined]
    told.start()
    mine = Board(store, 0, layout_for(load_config([], [])), 5.0, Ear(store.clone))  # type: ignore[attr-defined]
    started = time.monotonic()
    assert mine.wait_for("key", [1], "a test") == "told"
    assert time.monotonic() - started < 30
    told.join()
