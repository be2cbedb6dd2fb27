"""The network of a client fails: the others go on without it, and it finds them again once the network is back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from test_launch import arguments
from test_wan import REASON, ROOT

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read

pytestmark = [pytest.mark.long, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
TIMEOUT, SERVER = 10, 2
CHANGES = {
    "fed.every": 3,
    "fed.lost": "go_on",
    "runtime.timeout_seconds": TIMEOUT,
    "telemetry.progress": "false",
    "train.epochs": 5000,  # until the test has seen enough
    "eval.every": 1000,
}


def test_a_client_behind_a_dead_link_comes_back_with_it(model_folders: dict[str, Path], tmp_path: Path) -> None:
    _, *settings = arguments(model_folders["gpt2"], tmp_path / "run", **CHANGES)
    variables = {"CLIENTS": "2", "UP_MBIT": "50", "DOWN_MBIT": "50", "DELAY_MS": "2", "PYTHON": sys.executable}
    process = subprocess.Popen(
        [ROOT / "launch" / "wan.sh", *settings],
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def wait_until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while True:
            with suppress(UserError):  # a log that is being made
                if condition():
                    return
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.1)

    def link(state: str) -> None:
        subprocess.run(["ip", "-n", f"splitcom{process.pid}-hub", "link", "set", "c1", state], check=True)

    log = tmp_path / "run" / "telemetry" / f"rank_{SERVER:05d}.h5"
    try:
        wait_until(lambda: (read(log, "train")["step"] > 3).any())
        link("down")
        wait_until(lambda: (read(log, "events")["kind"] == b"lost").any())
        step = int(read(log, "train")["step"].max())
        wait_until(lambda: (read(log, "train")["step"] > step + 20).any())
        time.sleep(TIMEOUT)  # it has noticed, too, and tries in vain
        link("up")
        wait_until(lambda: (read(log, "events")["kind"] == b"back").any())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    served = read(log, "train")
    assert set(served["client"][served["step"] == step + 5]) == {-1, 0}, "the other one went on alone"
    events = read(log, "events")
    assert [row["kind"] for row in events] == [b"lost", b"back"] and b"rank 1" in events[0]["text"]
