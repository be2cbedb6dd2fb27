"""launch/wan.sh puts clients behind real slow links, and leaves nothing behind, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from splitcom_dist.telemetry.hdf5 import read

ROOT = Path(__file__).resolve().parents[2]
UP, DOWN, DELAY = 4, 20, 25
BURST = 40_000  # bytes that tc lets through at once


def obstacle() -> str | None:
    """Why this machine cannot run the script."""
    if os.geteuid() != 0:
        return "needs root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "needs iproute2"
    name = f"splitcom-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    try:
        for command in ("link add one type veth peer name two", "link add hub type bridge"):
            if subprocess.run(["ip", "-n", name, *command.split()], capture_output=True).returncode:
                return f"no ip {command}"
        tbf = "qdisc add dev one root tbf rate 4mbit burst 32kb limit 1mb"
        slow = subprocess.run(["tc", "-n", name, *tbf.split()], capture_output=True)
        return "no tbf in this kernel" if slow.returncode else None
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


REASON = obstacle()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def script(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    values = {
        "data.train_samples": 24,
        "data.validation_samples": 4,
        "data.max_length": 100,
        "fed.clients": 1,
        "train.epochs": 2,
        "train.batch_size": 4,
        "runtime.timeout_seconds": 30,
        "runtime.threads": 1,
        "telemetry.progress": "false",
        "transport": getattr(request, "param", "tcp"),
    }
    variables = {"CLIENTS": 1, "UP_MBIT": UP, "DOWN_MBIT": DOWN, "DELAY_MS": DELAY, "PYTHON": sys.executable}
    process = subprocess.Popen(
        [ROOT / "launch" / "wan.sh", *(f"{key}={value}" for key, value in values.items()), "--out", tmp_path / "run"],
        env=os.environ | {key: str(value) for key, value in variables.items()} | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=60)


def namespaces(process: subprocess.Popen[str]) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    return [name for name in listed if name.startswith(f"splitcom{process.pid}-")]


@pytest.mark.long
@pytest.mark.parametrize("script", ["gloo", "tcp"], indirect=True)
def test_a_run_behind_slow_links_takes_the_time_that_its_bytes_need(
    script: subprocess.Popen[str], tmp_path: Path
) -> None:
    output, errors = script.communicate(timeout=200)
    assert script.returncode == 0, errors
    assert "perplexity" in output
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    sent = rows[rows["side"] == 0]
    up, down = (sent[sent["link"] == code]["wire"].astype(np.int64) for code in (0, 1))
    needed = (up - BURST).sum() * 8 / (UP * 1e6) + (down - BURST).sum() * 8 / (DOWN * 1e6)
    needed += len(up) * 2 * DELAY / 1e3
    train = read(tmp_path / "run" / "run.h5", "train")
    of_client = train[train["client"] == 0]
    # What a client sends leaves its buffers while it waits for the answer.
    waited = of_client[np.isnan(of_client["loss"])]["wait"].sum() + sent[sent["link"] == 0]["t_send"].sum()
    assert needed > 3
    assert needed < waited < 3 * needed + 5
    assert namespaces(script) == []


@pytest.mark.long
def test_an_interrupt_ends_the_ranks_and_removes_the_namespaces(script: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "log").is_dir() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(namespaces(script)) == 2
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=60)
    assert script.returncode == 130
    assert namespaces(script) == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path / "run") not in listed, "a rank outlived the script"
