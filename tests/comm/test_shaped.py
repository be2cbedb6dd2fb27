"""Messages arrive when they would over a link of that rate and delay, and training is the same but for the time."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, run_command
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from splitcom_dist.comm.shaped import Link, ShapedTransport, hold
from splitcom_dist.comm.transports import Pending
from splitcom_dist.telemetry.hdf5 import read


class Recorder:
    """A transport that notes when it was handed which message; the first `good` ones are taken."""

    peer = 1

    def __init__(self, good: int = 1000) -> None:
        self.good = good
        self.arrivals: list[tuple[float, int]] = []
        self.came = threading.Semaphore(0)
        self.now = time.perf_counter

    def send(self, *messages: Tensor) -> None:
        for message in messages:
            self.arrivals.append((self.now(), len(message)))
            self.came.release()
        if len(self.arrivals) > self.good:
            raise RuntimeError("Connection closed by peer")

    def post_send(self, message: Tensor) -> Pending:
        raise AssertionError

    def post_receive(self, buffer: Tensor) -> Pending:
        raise AssertionError

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.came.acquire(timeout=20), "nothing was delivered"


class FakeClock:
    """Seconds that pass only in sleep."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@given(
    messages=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10**7)), min_size=1, max_size=8),
    mbit=st.sampled_from([0.0, 0.5, 20.0, 1000.0]),
    delay_ms=st.sampled_from([0.0, 40.0]),
)
def test_a_message_arrives_its_bytes_by_the_rate_after_the_link_is_free_and_the_delay_later(
    messages: list[tuple[float, int]], mbit: float, delay_ms: float
) -> None:
    link, now, free = Link(mbit, delay_ms), 50.0, 0.0
    for pause, size in messages:
        now += pause
        free = max(now, free) + (size * 8 / (mbit * 10**6) if mbit else 0)
        assert link.arrival(size, now) == pytest.approx(free + delay_ms / 1000, abs=1e-9)


def test_messages_are_handed_over_when_they_are_due_by_a_clock_of_our_own() -> None:
    clock, wire = FakeClock(), Recorder()
    wire.now = clock.now
    shaped = ShapedTransport(wire, Link(mbit=8, delay_ms=40), clock.now, clock.sleep)
    expected, size = [], 250_000  # a quarter of a second
    for _ in range(3):
        expected.append(clock.time + 0.29)
        shaped.send(torch.zeros(size, dtype=torch.uint8))
        wire.wait_for(1)
        clock.time += 1
    assert [when for when, _ in wire.arrivals] == pytest.approx(expected)


def test_in_real_time_several_messages_share_the_link_and_the_delay_is_paid_once() -> None:
    wire = Recorder()
    shaped = ShapedTransport(wire, Link(mbit=8, delay_ms=100))
    started = time.perf_counter()
    for size in (100_000, 200_000, 1):
        shaped.send(torch.zeros(size, dtype=torch.uint8))
    assert time.perf_counter() - started < 0.1, "the sender goes on while its messages are under way"
    wire.wait_for(3)
    due = [0.2, 0.4, 0.4]
    assert [size for _, size in wire.arrivals] == [100_000, 200_000, 1]
    for (when, _), expected in zip(wire.arrivals, due, strict=True):
        assert expected <= when - started < expected + 0.3, "never early, and late only as the machine is loaded"


def test_what_is_sent_may_be_overwritten_at_once() -> None:
    kept: list[Tensor] = []

    class Keeping(Recorder):
        def send(self, *messages: Tensor) -> None:
            kept.extend(messages)
            super().send(*messages)

    wire = Keeping()
    message = torch.ones(5, dtype=torch.uint8)
    shaped = ShapedTransport(wire, Link(mbit=0, delay_ms=50))
    shaped.send(message)
    message.zero_()
    wire.wait_for(1)
    assert kept[0].tolist() == [1] * 5


def test_a_delivery_that_fails_is_told_by_the_next_send() -> None:
    wire = Recorder(good=0)
    shaped = ShapedTransport(wire, Link(mbit=0, delay_ms=1))
    shaped.send(torch.zeros(1, dtype=torch.uint8))
    wire.wait_for(1)
    deadline = time.monotonic() + 10
    with pytest.raises(RuntimeError, match="Connection closed"):
        while time.monotonic() < deadline:
            shaped.send(torch.zeros(1, dtype=torch.uint8))
            time.sleep(0.01)


def test_averaging_takes_the_way_up_and_down() -> None:
    up, down = Link(mbit=8, delay_ms=50), Link(mbit=80, delay_ms=50)
    started = time.perf_counter()
    hold(100_000, started, up, down)
    assert 0.21 <= time.perf_counter() - started < 0.5
    hold(1000, started - 10, Link(8, 50), Link(80, 50))  # took longer anyway
    assert time.perf_counter() - started < 0.8


@pytest.mark.long
def test_a_shaped_run_trains_the_same_and_takes_the_time_that_its_bytes_need(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    def train(name: str, *extra: str) -> Outcome:
        values = {
            "model.name": model_folders["gpt2"],
            "data.train_samples": 16,
            "data.validation_samples": 4,
            "data.max_length": 60,
            "roles.client_ranks": 1,
            "fed.clients": 2,
            "fed.every": 2,
            "train.epochs": 1,
            "train.batch_size": 4,
            "telemetry.progress": "false",
        }
        settings = [f"{key}={value}" for key, value in values.items()]
        return run_command(["train", *settings, *extra, "--out", str(tmp_path / name)])

    plain = train("plain")
    link = ["runtime.link.up_mbit=0.4", "runtime.link.down_mbit=0.2", "runtime.link.delay_ms=30"]
    shaped = train("shaped", *link)
    assert (plain.code, shaped.code) == (0, 0), plain.stderr + shaped.stderr
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("plain", "shaped")]
    assert all(adapters[0][name].equal(tensor) for name, tensor in adapters[1].items())
    rows = read(tmp_path / "shaped" / "run.h5", "traffic")
    sent = rows[rows["side"] == 0]
    up, down = (int(sent[sent["link"] == code]["wire"].sum()) for code in (0, 1))
    waits = read(tmp_path / "shaped" / "run.h5", "train")
    rounds = read(tmp_path / "shaped" / "run.h5", "rounds")
    exchanges = len(sent) // 2
    needed = up * 8 / 4e5 + down * 8 / 2e5 + exchanges * 2 * 0.03
    of_clients = waits[np.isnan(waits["loss"])]["wait"].sum()
    assert needed - 0.01 <= of_clients < needed + 5, "the client waits for what it sent, and for the answer"
    for size, seconds in rounds[rounds["participants"] > 0][["bytes", "seconds"]]:
        assert seconds >= size * 8 / 4e5 + size * 8 / 2e5 + 2 * 0.03 - 0.001
