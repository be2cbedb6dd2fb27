"""A mistake ends every rank, soon, with exit code 2 and one line that says what to mend."""

import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import CONFIGS, Outcome, byte_tokenizer, run_command
from torch import Tensor

from splitcom_dist.codec import wire
from splitcom_dist.codec.header import Header
from splitcom_dist.comm import outbox
from splitcom_dist.roles.aggregator import AggregatorRole
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.server import ServerRole


def train(model: object, out: Path, *extra: str, **kwargs: object) -> Outcome:
    settings = {
        "model.name": model,
        "data.train_samples": 24,
        "data.validation_samples": 4,
        "data.max_length": 100,
        "roles.client_ranks": 2,
        "fed.clients": 2,
        "train.epochs": 2,
        "train.batch_size": 4,
        "runtime.timeout_seconds": 6,
        "telemetry.progress": False,
    }
    arguments = ["train", *(f"{key}={value}" for key, value in settings.items()), *extra, "--out", str(out)]
    return run_command(arguments, **kwargs)  # type: ignore[arg-type]


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, (outcome.code, outcome.stderr)
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("[W")]  # torch's own warnings
    assert len(lines) == 1 and lines[0].startswith("error: "), outcome.stderr
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.fixture
def model(model_folders: dict[str, Path]) -> Path:
    return model_folders["gpt2"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.lrr=1", ["unknown key train.lrr", "train.lr?"]),
        ("train.lr=fast", ["train.lr", "could not be converted to Float"]),
        ("model.cut_layer=4", ["model.cut_layer=4", "choose 1 to 3"]),
        ("data.max_length=500", ["data.max_length=500", "128 positions", "set data.max_length=128"]),
        ("data.train_samples=1", ["fed.clients=2", "1 "]),
        ("train.lr=1e30", ["loss is", "at step", "on client", "lower train.lr"]),
        ("data.overlong=error data.max_length=20", ["data.max_length"]),
        ("lora.target_modules=[no_such]", ["lora.target_modules", "no_such"]),
    ],
    ids=lambda value: value.split("=")[0] if isinstance(value, str) else "",
)
def test_bad_values(override: str, parts: list[str], model: Path, tmp_path: Path) -> None:
    assert_one_line(train(model, tmp_path / "run", *override.split()), *parts)


def test_model_that_is_not_supported(tmp_path: Path) -> None:
    transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=2).save_pretrained(tmp_path / "bloom")
    assert_one_line(train(tmp_path / "bloom", tmp_path / "run"), "'bloom' is not supported", "gpt_neox")


def test_model_whose_weights_are_missing_or_broken(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "torn"
    CONFIGS["gpt2"]().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert_one_line(train(folder, tmp_path / "one"), "cannot load weights")
    (folder / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-5000])
    assert_one_line(train(folder, tmp_path / "two"), "cannot load weights")


def jsonl(folder: Path, train_lines: list[str]) -> str:
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(train_lines))
    good = json.dumps({"source": "name : The Mill", "target": "The Mill is a pub."})
    (folder / "valid.jsonl").write_text("\n".join([good] * 4))
    return f"data.path={folder}"


def test_malformed_json_names_file_and_line(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"source": "a", "target": f"b {number}"}) for number in range(20)]
    lines[16] = '{"source": "a", "target": '
    outcome = train(model, tmp_path / "run", "data.name=jsonl", jsonl(tmp_path / "data", lines))
    assert_one_line(outcome, "train.jsonl", "line 17")


def test_missing_data_names_what_was_looked_for(model: Path, tmp_path: Path) -> None:
    outcome = train(model, tmp_path / "run", "data.name=e2e", f"data.path={tmp_path / 'absent'}")
    assert_one_line(outcome, "data.path", "absent")
    (tmp_path / "empty").mkdir()
    outcome = train(model, tmp_path / "again", "data.name=e2e", f"data.path={tmp_path / 'empty'}")
    assert_one_line(outcome, "holds nothing", "looked for")


def test_silo_of_one_client_missing(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"source": "a", "target": f"b {number}"}) for number in range(8)]
    jsonl(tmp_path / "org0", lines)
    settings = [f"data.path={tmp_path}/org{{client}}", f"data.validation_path={tmp_path}/org0"]
    assert_one_line(train(model, tmp_path / "run", "data.name=jsonl", *settings), "org1")


def test_run_directory_that_exists(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("mine")
    assert_one_line(train(model, tmp_path / "run"), "exists", "--out")
    assert os.listdir(tmp_path / "run") == ["kept"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_world_size_that_fits_no_layout_is_told_by_rank_0(rank: str, model: Path, tmp_path: Path) -> None:
    launched = {"RANK": rank, "WORLD_SIZE": "6", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    outcome = train(model, tmp_path / "run", environment=launched)
    if rank == "0":
        assert_one_line(outcome, "started with 6 ranks", "roles.client_ranks=4 roles.server_ranks=1")
    else:
        assert (outcome.code, outcome.stderr) == (2, "")


# Faults in mid-run: each patch runs in every rank, and acts on one.


def at_step(role: type, method: str, act: Callable[[object], None], step_argument: int = -1) -> Callable[[], None]:
    """A patch under which `role.method` does `act` first when it comes to step 3."""

    def patch() -> None:
        original = getattr(role, method)

        def acting(self: object, *arguments: object) -> object:
            if arguments[step_argument] == 3:
                act(self)
            return original(self, *arguments)

        setattr(role, method, acting)

    return patch


def kill(self: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(self: object) -> None:
    time.sleep(3600)


def crash(self: object) -> None:
    raise ZeroDivisionError("a bug")


def test_a_killed_client_is_named_by_the_others(model: Path, tmp_path: Path) -> None:
    def kill_second(self: object) -> None:
        if self.context.world.rank == 1:  # type: ignore[attr-defined]
            kill(self)

    started = time.monotonic()
    outcome = train(model, tmp_path / "run", before=at_step(ClientRole, "turn", kill_second))
    assert time.monotonic() - started < 30
    assert outcome.code == 1
    assert (
        outcome.stderr.count("error: ") == 1
        and "rank 1 (client 1) is gone during up_activation, step 3" in outcome.stderr
    )


@pytest.mark.parametrize(
    ("role", "method", "name"),
    [(ServerRole, "step", "rank 2 (server)"), (AggregatorRole, "average", "rank 3 (aggregator)")],
    ids=["server", "aggregator"],
)
@pytest.mark.parametrize("fault", [kill, pytest.param(hang, marks=pytest.mark.long)], ids=["killed", "silent"])
def test_a_lost_server_or_aggregator_ends_the_run(
    role: type, method: str, name: str, fault: Callable[[object], None], model: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    every_step = "fed.every=1"
    outcome = train(model, tmp_path / "run", every_step, before=at_step(role, method, fault))
    assert outcome.code in (1, 2) and time.monotonic() - started < 40
    assert outcome.stderr.count("error: ") == 1 and name in outcome.stderr, outcome.stderr


def test_a_bug_is_one_line_too_and_its_trace_is_in_the_log(model: Path, tmp_path: Path) -> None:
    outcome = train(model, tmp_path / "run", before=at_step(ServerRole, "step", crash))
    assert outcome.code == 2 or outcome.code == 1
    assert [line for line in outcome.stderr.splitlines() if "[W" not in line] == [
        "error: rank 2 (server): ZeroDivisionError: a bug; the log has the details"
    ]
    assert "Traceback" in (tmp_path / "run" / "log" / "rank_00002.log").read_text()


@pytest.mark.parametrize(
    ("position", "field"),
    [(0, "magic"), (8, "version"), (16, "header_crc"), (-1, "body_checksum")],
    ids=["magic", "version", "header", "body"],
)
def test_a_packet_corrupted_on_its_way_ends_the_run(position: int, field: str, model: Path, tmp_path: Path) -> None:
    def patch() -> None:
        in_messages = wire.in_messages

        def corrupting(header: Header, *more: Any) -> tuple[Tensor, ...]:
            messages = in_messages(header, *more)
            if (header.link, header.step, header.client) == (0, 3, 1):
                messages[0][position] ^= 0x10
            return messages

        outbox.in_messages = corrupting  # type: ignore[assignment, attr-defined]

    outcome = train(model, tmp_path / "run", before=patch)
    assert_one_line(outcome, "rank 1 (client 1), up_activation, step 3", field)


def be_in_the_foreground() -> None:
    os.setsid()  # a terminal's Ctrl-C reaches the whole foreground group
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored


def test_an_interrupt_ends_every_rank(model: Path, tmp_path: Path) -> None:
    def interrupt_all() -> None:
        be_in_the_foreground()
        threading.Timer(3.0, os.killpg, (os.getpgid(0), signal.SIGINT)).start()

    outcome = train(model, tmp_path / "run", "train.epochs=100000", before=interrupt_all)
    assert outcome.code == 130 and "Traceback" not in outcome.stderr, outcome.stderr
    assert outcome.stderr.count("interrupted") == 1 and "error: " not in outcome.stderr


def test_an_interrupt_that_python_drops_ends_its_rank_too(model: Path, tmp_path: Path) -> None:
    def interrupt_all(self: object) -> None:
        if self.context.world.rank == 0:  # type: ignore[attr-defined]
            thing = threading.Event()
            watched = weakref.ref(thing, lambda _: os.killpg(os.getpgid(0), signal.SIGINT))
            del thing  # what the callback raises is dropped
            assert watched() is None

    def patch() -> None:
        be_in_the_foreground()
        sys.unraisablehook = lambda _: None
        at_step(ClientRole, "turn", interrupt_all)()

    outcome = train(model, tmp_path / "run", "train.epochs=100000", before=patch)
    assert (outcome.code, outcome.stderr) == (130, "interrupted\n")


def test_nothing_is_left_running() -> None:
    assert torch.multiprocessing.active_children() == []
