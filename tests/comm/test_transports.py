"""The same packets over Gloo, TCP, MPI and NCCL, between processes, and what is said when a peer is gone or silent."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from transport_ranks import SIZES, TIMEOUT

from splitcom_dist.codec.header import HEADER
from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.schema import row_dtype

RANKS = Path(__file__).with_name("transport_ranks.py")
ROOT = Path(__file__).resolve().parents[2]
needs_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None or find_spec("mpi4py") is None, reason="needs mpirun and mpi4py"
)
needs_gpus = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"{torch.cuda.device_count()} CUDA devices, 2 needed"),
]
# Not NCCL, whose transfers of a pair are done one by one, nor TCP, which takes nothing in while it sends.
CROSSING = ["gloo", pytest.param("mpi", marks=needs_mpi)]
TRANSPORTS = [*CROSSING, "tcp", pytest.param("nccl", marks=needs_gpus)]


def environment() -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


def mpirun(ranks: int, *options: str) -> list[str]:
    return ["mpirun", "--oversubscribe", *options, "-n", str(ranks), sys.executable]


def run(commands: list[list[str]], variables: list[dict[str, str]], timeout: float = 150) -> tuple[list[int], str, str]:
    """Run all at once, each in a group of its own that is ended with it; their exit codes, output and errors."""
    started = [
        subprocess.Popen(
            command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for command, own in zip(commands, variables, strict=True)
    ]
    try:
        texts = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    codes = [process.returncode for process in started]
    return codes, "".join(text[0] for text in texts), "".join(text[1] for text in texts)


def play(transport: str, scenario: str, *options: str) -> tuple[dict[int, dict[str, Any]], list[int], str]:
    """Three ranks play a scenario: what each told, exit codes, and errors."""
    arguments = [str(RANKS), transport, scenario]
    if transport == "mpi":
        codes, output, errors = run([[*mpirun(3, *options), *arguments]], [environment()])
    else:
        variables = environment()
        each = [variables | {"RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
        codes, output, errors = run([[sys.executable, *arguments]] * 3, each)
    told = [json.loads(text) for text in re.findall(r"\{[^{}]*\}", output)]  # mpirun may join two ranks' lines
    return {line["rank"]: line for line in told}, codes, errors


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_packets_of_every_size_arrive_whole_both_ways(transport: str) -> None:
    told, codes, errors = play(transport, "packets")
    assert set(codes) == {0}, errors
    for rank in (0, 1):
        assert told[rank]["counts"] == [[HEADER.size + size] * 2 for size in SIZES]


@pytest.mark.parametrize("transport", CROSSING)
def test_both_ends_may_send_at_once_into_posted_buffers(transport: str) -> None:
    told, codes, errors = play(transport, "crossing")
    assert set(codes) == {0}, errors
    for rank in (0, 1):
        assert told[rank]["same"] == [True] * len(SIZES)
        assert told[rank]["short"] == [0, 1, 2, 3, 7, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("transport", ["tcp", pytest.param("mpi", marks=needs_mpi)])
def test_a_message_longer_than_the_buffer_is_refused(transport: str) -> None:
    told, codes, errors = play(transport, "longer")
    assert set(codes) == {0}, errors
    assert told[1]["error"] == "message: longer than what was due here"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_killed_peer_is_named_within_the_timeout(transport: str) -> None:
    told, _, errors = play(transport, "killed", "--enable-recovery")
    assert "rank 0 (client 0)" in told[1]["error"] and "during up_activation, step 1" in told[1]["error"], errors
    assert told[1]["ranks"] == [0] and told[1]["seconds"] < TIMEOUT + 2


@pytest.mark.long
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("scenario", "what"), [("silent", "up_activation"), ("unheard", "down_gradient")])
def test_a_silent_peer_is_named_after_the_timeout_and_no_core_spins(scenario: str, what: str, transport: str) -> None:
    told, _, errors = play(transport, scenario)
    said = f"rank 0 (client 0) was silent for longer than runtime.timeout_seconds during {what}, step 1"
    assert told[1]["error"] == said, errors
    assert TIMEOUT - 0.5 < told[1]["seconds"] < TIMEOUT + 2
    assert told[1]["busy"] < 0.5 * TIMEOUT


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"{torch.cuda.device_count()} CUDA devices, 2 needed")
def test_a_payload_that_nobody_takes_is_aborted_after_the_timeout_and_names_the_peer() -> None:
    told, _, errors = play("nccl", "untaken")
    said = "rank 0 (client 0) was silent for longer than runtime.timeout_seconds during down_gradient, step 1"
    assert told[1]["error"] == said, errors
    assert TIMEOUT - 0.5 < told[1]["seconds"] < TIMEOUT + 2


@needs_mpi
def test_mpirun_ends_every_rank_when_one_is_killed() -> None:
    told, codes, errors = play("mpi", "killed")
    assert codes != [0] and "signal 9" in errors
    assert told.get(1, {"ranks": [0]})["ranks"] == [0], "whoever speaks first names the rank that is gone"


RUN = {
    "data.train_samples": 24,
    "data.validation_samples": 6,
    "data.max_length": 100,
    "roles.client_ranks": 2,
    "fed.clients": 3,
    "fed.every": 2,
    "train.epochs": 2,
    "train.batch_size": 4,
    "runtime.threads": 1,
    "telemetry.progress": "false",
}


def run_settings(model: Path) -> list[str]:
    return ["train", f"model.name={model}", *(f"{key}={value}" for key, value in RUN.items()), "codec=video"]


def assert_run_over_gloo(out: Path, model: Path, gloo: Path, *extra: str) -> None:
    """The run in `out` is that over Gloo, made here in `gloo` with the same settings, byte for byte."""
    own = run_command([*run_settings(model), "transport=gloo", *extra, "--out", str(gloo)])
    assert own.code == 0, own.stderr
    saved = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (out, gloo)]
    assert saved[0].keys() == saved[1].keys()
    assert all(saved[0][name].equal(tensor) for name, tensor in saved[1].items())
    rows = [read(folder / "run.h5", "traffic") for folder in (out, gloo)]
    columns = [name for name in row_dtype("traffic").names or () if not name.startswith("t_")]
    assert len(rows[0]) and all(np.array_equal(rows[0][name], rows[1][name]) for name in columns)


@needs_mpi
@pytest.mark.long
def test_a_run_over_mpi_is_the_run_over_gloo_byte_for_byte(model_folders: dict[str, Path], tmp_path: Path) -> None:
    model = model_folders["gpt2"]
    command = [*mpirun(4), "-m", "splitcom_dist", *run_settings(model), "transport=mpi", "--out", str(tmp_path / "mpi")]
    variables = {name: value for name, value in environment().items() if not name.startswith("MASTER_")}
    codes, output, errors = run([command], [variables])  # MPI tells them where to meet, too
    assert codes == [0], errors
    assert output.count("perplexity") == 1, "the table is printed once"
    assert_run_over_gloo(tmp_path / "mpi", model, tmp_path / "gloo")


@pytest.mark.parametrize("extra", [[], pytest.param(["roles.overlap=full"], marks=pytest.mark.long)])
def test_a_run_over_tcp_is_the_run_over_gloo_byte_for_byte(
    extra: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_folders["gpt2"]
    outcome = run_command([*run_settings(model), *extra, "--out", str(tmp_path / "tcp")])
    assert outcome.code == 0, outcome.stderr
    assert_run_over_gloo(tmp_path / "tcp", model, tmp_path / "gloo", *extra)


def test_mpi_without_mpirun_says_what_to_do(model_folders: dict[str, Path], tmp_path: Path) -> None:
    outcome = run_command(
        ["train", f"model.name={model_folders['gpt2']}", "transport=mpi", "--out", str(tmp_path / "run")]
    )
    assert outcome.code == 2
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("[W")]
    assert len(lines) == 1 and "transport=mpi: splitcom started these ranks; start them with mpirun" in lines[0]


@needs_mpi
def test_mpi_without_mpi4py_names_the_ranks_that_lack_it() -> None:
    hide = "from splitcom_dist import world; world.available = lambda: False; import runpy, sys; "
    play_it = f"sys.argv = ['', 'mpi', 'packets']; runpy.run_path({str(RANKS)!r}, run_name='__main__')"
    codes, _, errors = run([[*mpirun(3), "-c", hide + play_it]], [environment()])
    assert codes != [0]
    missing = "transport=mpi: mpi4py or its MPI library is missing on rank 0 (client 0), rank 1 (server), rank 2"
    assert missing in errors


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(UserError, match="transport=ucx: choose one of tcp, gloo, nccl, mpi"):
        load_config([], ["transport=ucx"])
