"""Client ranks are killed, stopped or cut off: the others go on without them, and take them back when they return."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from test_launch import arguments

from splitcom_dist.checkpoints.signals import RESUME_ME
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read, read_kept
from splitcom_dist.telemetry.ledger import named_totals

pytestmark = pytest.mark.long
TIMEOUT = 10
CLIENTS = range(3)
SERVER, AGGREGATOR = 3, 4
ENDLESS = {
    "fed.every": 3,
    "fed.lost": "go_on",
    "runtime.timeout_seconds": TIMEOUT,
    "telemetry.progress": "false",
    "train.epochs": 5000,  # until the test has seen enough
    "eval.every": 1000,
}
CHANGES = {"roles.client_ranks": len(CLIENTS), "fed.clients": 4, **ENDLESS}


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Until it holds; a log that is being made is no failure, the end of the process is."""
    deadline = time.monotonic() + 150
    while True:
        with suppress(UserError):
            if condition():
                return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it goes on, and what was waited for does not come"
        time.sleep(0.05)


def served(path: Path, client: int) -> int:
    """The last step in which a server has served a client, by its log."""
    rows = read(path, "train")
    return int(rows["step"][rows["client"] == client].max())


class Run:
    """`splitcom train` on this machine, whose ranks get signals."""

    def __init__(self, folder: Path, model: Path, **changes: object) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "splitcom_dist", *arguments(model, folder, **(CHANGES | changes))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def pid_of(self, rank: int) -> int:
        """Of the process that plays this rank now; those started again come last among the launcher's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        again = [pid for pid in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
        return int(again[-1] if again else children[rank])

    def wait_for_step(self, step: int, rank: int = SERVER) -> None:
        path = self.folder / "telemetry" / f"rank_{rank:05d}.h5"
        wait_until(self.process, lambda: (read(path, "train")["step"] >= step).any())

    def wait_for_event(self, kind: str) -> None:
        wait_until(self.process, lambda: self.events(kind))

    def events(self, kind: str) -> list[str]:
        rows = read(self.folder / "telemetry" / f"rank_{SERVER:05d}.h5", "events")
        return [row["text"].decode() for row in rows if row["kind"] == kind.encode()]

    def end(self, code: int = 0, seconds: float = 240) -> str:
        """Wait for the end; returns standard error."""
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == code, errors
        return errors

    def stop(self) -> None:
        """Ask it to stop, which it does whole."""
        self.process.send_signal(signal.SIGTERM)
        self.end(code=RESUME_ME)


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.communicate(timeout=60)


SHAPES: dict[str, dict[str, object]] = {
    "standard": {"codec": "none"},
    "video": {"codec": "video"},
    "overlapped": {"codec": "video", "train.micro_batches": 2, "roles.overlap": "full"},
    "over gloo": {"codec": "none", "transport": "gloo"},
    "as they come": {"codec": "video", "roles.server_batching": "arrival"},
    "U-shape": {"codec": "splitcom_all_int8", "shape": "u_shape"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_killed_client_comes_back_and_the_others_did_not_wait(
    shape: str, model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]
) -> None:
    run = Run(tmp_path / "run", model_folders["gpt2"], **SHAPES[shape])
    runs.append(run)
    run.wait_for_step(4)
    os.kill(run.pid_of(1), signal.SIGKILL)
    run.wait_for_event("back")
    run.stop()
    assert len(run.events("lost")) == 1 and "rank 1 (client 1)" in run.events("lost")[0]
    served = read(run.folder / "telemetry" / f"rank_{SERVER:05d}.h5", "train")
    steps = {client: set(served["step"][served["client"] == client]) for client in range(4)}
    away = steps[0] - steps[1]
    assert away and max(steps[1]) > max(away), "gone for a while, and back"
    assert steps[2] == steps[0], "the others were served in every step"
    rounds = read(run.folder / "telemetry" / f"rank_{AGGREGATOR:05d}.h5", "rounds")
    sent = read(run.folder / "telemetry" / "rank_00001.h5", "train")
    assert set(sent["step"]) <= steps[1], "one log, of both of its lives"
    assert len(steps[1] - set(sent["step"])) <= 1, "but for the step that it died in"
    assert len(rounds["step"]) == len(set(rounds["step"]))


def test_its_bytes_are_counted_over_all_its_lives(
    model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]
) -> None:
    """What it counts is what its log holds; what died with a process is at most the step it died in."""
    run = Run(tmp_path / "run", model_folders["gpt2"], codec="int8")
    runs.append(run)
    run.wait_for_step(4)
    os.kill(run.pid_of(2), signal.SIGKILL)
    run.wait_for_event("back")
    run.stop()
    logs = [run.folder / "telemetry" / f"rank_{rank:05d}.h5" for rank in (2, SERVER)]
    own, servers = (read(path, "traffic") for path in logs)
    links, _ = named_totals(torch.from_numpy(read_kept(logs[0])[1]))
    assert links["up_activation"]["wire_bytes"] == own["wire"][(own["link"] == 0) & (own["side"] == 0)].sum()
    up = np.concatenate([own, servers[servers["client"] == 2]])
    up = up[up["link"] == 0]
    sent, received = (
        set(zip(*(up[up["side"] == side][key] for key in ("step", "client")), strict=True)) for side in (0, 1)
    )
    assert sent <= received and len(received - sent) <= 1


def test_a_stopped_client_is_left_behind_within_the_timeout(
    model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]
) -> None:
    run = Run(tmp_path / "run", model_folders["gpt2"])
    runs.append(run)
    run.wait_for_step(4)
    pid = run.pid_of(2)
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        run.wait_for_event("lost")
        noticed = time.monotonic() - stopped
    finally:
        os.kill(pid, signal.SIGCONT)
    run.wait_for_event("back")
    run.stop()
    assert noticed < 3 * TIMEOUT, "one timeout, and some slack for a loaded machine"
    assert len(run.events("lost")) == 1


@pytest.mark.parametrize("rank", [SERVER, AGGREGATOR])
def test_nothing_goes_on_without_server_or_aggregator(
    rank: int, model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]
) -> None:
    run = Run(
        tmp_path / "run",
        model_folders["gpt2"],
    )
    runs.append(run)
    run.wait_for_step(2)
    pid = run.pid_of(rank)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    errors = run.end(code=1, seconds=60).splitlines()  # the launcher ends who is still stopped
    assert time.monotonic() - started < 5 * TIMEOUT
    (line,) = [line for line in errors if line.startswith("error: ")]
    assert f"rank {rank} (" in line and "no run goes on without it" in line


SLOW = """
import time
from splitcom_dist import runner

load_share = runner.load_share

def slowly(config, world, *more):
    time.sleep(2 if world.rank == 0 else 0)
    return load_share(config, world, *more)

runner.load_share = slowly
"""


def test_a_run_that_was_stopped_without_a_client_resumes_with_it(
    model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]
) -> None:
    """All of its samples, though the others wait for its data."""
    (tmp_path / "slow.py").write_text(SLOW)
    changes = {"fed.returns": 0, "resume": "auto", "extensions": f"[{tmp_path / 'slow.py'}]"}
    first = Run(tmp_path / "run", model_folders["gpt2"], **changes)
    runs.append(first)
    first.wait_for_step(4)
    os.kill(first.pid_of(0), signal.SIGKILL)
    first.wait_for_event("lost")
    first.stop()
    (path,) = first.folder.glob("checkpoints/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["missing"] == [0]
    second = Run(tmp_path / "run", model_folders["gpt2"], **changes)
    runs.append(second)
    second.wait_for_event("back")
    path = second.folder / "telemetry" / f"rank_{SERVER:05d}.h5"
    for client in (0, 3):  # the steps in which a client has a batch are not all
        wait_until(second.process, lambda: served(path, client) > manifest["step"])  # noqa: B023
    second.stop()
    assert second.events("back") == ["rank 0 (client 0,3)"]


def test_the_last_client_ends_the_run(model_folders: dict[str, Path], tmp_path: Path, runs: list[Run]) -> None:
    changes = {"roles.client_ranks": 1, "fed.clients": 1, "fed.returns": 0}
    run = Run(tmp_path / "run", model_folders["gpt2"], **changes)
    runs.append(run)
    run.wait_for_step(4, rank=1)
    os.kill(run.pid_of(0), signal.SIGKILL)
    assert "error: every client rank is lost" in run.end(code=2)
