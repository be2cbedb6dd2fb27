"""The network of a client fails: the others go on without it, and it finds them again once the network is back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_launch import arguments
from test_lost import ENDLESS, TIMEOUT, wait_until
from test_wan import REASON, ROOT

from splitcom_dist.telemetry.hdf5 import read

pytestmark = [pytest.mark.long, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
SERVER = 2


def test_a_client_behind_a_dead_link_comes_back_with_it(model_folders: dict[str, Path], tmp_path: Path) -> None:
    _, *settings = arguments(model_folders["gpt2"], tmp_path / "run", **ENDLESS)
    variables = {"CLIENTS": "2", "UP_MBIT": "50", "DOWN_MBIT": "50", "DELAY_MS": "2", "PYTHON": sys.executable}
    process = subprocess.Popen(
        [ROOT / "launch" / "wan.sh", *settings],
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def link(state: str) -> None:
        subprocess.run(["ip", "-n", f"splitcom{process.pid}-hub", "link", "set", "c1", state], check=True)

    log = tmp_path / "run" / "telemetry" / f"rank_{SERVER:05d}.h5"
    try:
        wait_until(process, lambda: (read(log, "train")["step"] > 3).any())
        link("down")
        wait_until(process, lambda: (read(log, "events")["kind"] == b"lost").any())
        step = int(read(log, "train")["step"].max())
        wait_until(process, lambda: (read(log, "train")["step"] > step + 20).any())
        time.sleep(TIMEOUT)  # it has noticed, too, and tries in vain
        link("up")
        wait_until(process, lambda: (read(log, "events")["kind"] == b"back").any())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    served = read(log, "train")
    assert set(served["client"][served["step"] == step + 5]) == {-1, 0}, "the other one went on alone"
    events = read(log, "events")
    assert [row["kind"] for row in events] == [b"lost", b"back"] and b"rank 1" in events[0]["text"]
