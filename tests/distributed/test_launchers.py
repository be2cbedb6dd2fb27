"""Real launchers: mpirun trains to the same adapter as our own, and the doctor meets its ranks under each."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command
from test_launch import SETTINGS

LAUNCH = Path(__file__).parents[2] / "launch"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
DOCTOR = ["-m", "splitcom_dist", "doctor"]
TIMEOUT = 200

mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None or importlib.util.find_spec("mpi4py") is None,
    reason="no mpirun, or no mpi4py: install openmpi-bin and the extra mpi",
)


def run(command: list[str | Path], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a launcher to its end; over time it is stopped, and takes its ranks with it."""
    environment = os.environ | AS_ROOT | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # mpirun and torchrun pass it on to their ranks
            stdout, stderr = process.communicate(timeout=60)
            pytest.fail(f"still running after {TIMEOUT} s\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def mpirun_command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return run([LAUNCH / "mpirun.sh", *map(str, arguments)], MPIRUN="--oversubscribe", **variables)


@mpirun
def test_mpirun_trains_to_the_same_adapter_byte_for_byte(model_folders: dict[str, Path], tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in (SETTINGS | {"model.name": model_folders["gpt2"]}).items()]
    launched = mpirun_command(*settings, "--out", tmp_path / "mpirun", RANKS="4")
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("perplexity") == 3, "before and after training, and in the table"
    own = run_command(["train", *settings, "--out", str(tmp_path / "own")])
    assert own.code == 0, own.stderr
    adapters = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("mpirun", "own")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@mpirun
@pytest.mark.long
def test_a_mistake_under_mpirun_is_one_line_and_ends_it(model_folders: dict[str, Path], tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in (SETTINGS | {"model.name": model_folders["gpt2"]}).items()]
    launched = mpirun_command(*settings, "--out", tmp_path / "run", RANKS="3")
    assert launched.returncode == 2
    own = [line for line in launched.stderr.splitlines() if line.startswith("error: ")]
    assert len(own) == 1 and "with 3 ranks, set roles.client_ranks=1" in own[0], launched.stderr


def assert_three_ranks_reach_each_other(report: dict[str, Any], launcher: str, transport: str) -> None:
    assert report["problems"] == []
    places = [rank["place"] for rank in report["ranks"]]
    assert [(place["rank"], place["local_rank"], place["world_size"]) for place in places] == [
        (0, 0, 3),
        (1, 1, 3),
        (2, 2, 3),
    ]
    assert {place["launcher"] for place in places} == {launcher}
    assert report["transport"] == transport
    assert sorted((pair["first"], pair["second"]) for pair in report["pairs"]) == [(0, 1), (0, 2), (1, 2)]
    for pair in report["pairs"]:
        assert 1e-6 < pair["round_trip_seconds"] < 1
        assert pair["forward"] > 1e6 and pair["backward"] > 1e6, "slower than 1 MB/s on loopback"
        assert abs(pair["clock_offset_seconds"]) < 0.5


def test_doctor_under_torchrun(tmp_path: Path) -> None:
    outcome = run([*TORCHRUN, "3", *DOCTOR, "--json"])
    assert outcome.returncode == 0, outcome.stderr
    assert_three_ranks_reach_each_other(json.loads(outcome.stdout), "torchrun", "gloo")


@mpirun
@pytest.mark.parametrize("transport", ["gloo", "mpi"])
def test_doctor_under_mpirun(transport: str) -> None:
    outcome = mpirun_command("--transport", transport, "--json", RANKS="3", COMMAND="doctor")
    assert outcome.returncode == 0, outcome.stderr
    assert_three_ranks_reach_each_other(json.loads(outcome.stdout), "mpirun (Open MPI)", transport)


def test_doctor_with_one_rank_prints_its_tables_once() -> None:
    outcome = run([*TORCHRUN, "1", *DOCTOR])
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("launcher") == 1 and "rank 0 of 1" in outcome.stdout
    assert outcome.stdout.rstrip().endswith("all is well")


@mpirun
@pytest.mark.long
def test_a_rank_that_never_comes_to_mpi_does_not_hang_the_others() -> None:
    """Rank 1 sleeps instead; MPI_Init waits for it without an end."""
    doctor = f"exec {sys.executable} -m splitcom_dist doctor --timeout 5"
    script = f'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then exec sleep 50; else {doctor}; fi'
    started = time.monotonic()
    outcome = run(["mpirun", "--oversubscribe", "-n", "2", "bash", "-c", script])
    assert outcome.returncode == 1 and time.monotonic() - started < 45
    assert "MPI did not bring all ranks together within 5 s: see which one hangs" in outcome.stdout
