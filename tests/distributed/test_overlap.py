"""Micro-batches in whole runs: one step of the whole batch, and the same bits whether they overlap or not."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import assert_same_run, settings
from test_predict import predicted
from test_resume import TIMES, at_step, check_same
from test_runs import EPOCHS, check_books, lose_references, train

from splitcom_dist.config.files import load_config
from splitcom_dist.links import LINKS
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.standard_server import StandardServerRole
from splitcom_dist.telemetry.hdf5 import read

PARTS = 3  # of batches of 4 samples: sizes 1, 1 and 2, and what is left of an epoch is cut finer or not at all
FEW = ["data.train_samples=30", "data.validation_samples=4", "telemetry.sketch=4"]
SHAPES = {"standard": [], "u_shape": ["shape=u_shape"]}


def overlapped(choice: str) -> list[str]:
    return [f"train.micro_batches={PARTS}", f"roles.overlap={choice}"]


def books(out: Path) -> dict[str, Any]:
    """Every row of the tables that do not tell times, in an order that does not depend on when what happened."""
    tables = {}
    for table in ("traffic", "similarity", "sketch", "eval", "rounds", "train"):
        rows = read(out / "run.h5", table)
        columns = [name for name in rows.dtype.names or () if name not in (*TIMES, "seconds", "wait")]
        tables[table] = sorted(map(repr, rows[columns].tolist()))
    return tables


def assert_same_bits(one: Path, other: Path) -> None:
    adapters = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, other)]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(np.array_equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert books(one) == books(other)


@pytest.mark.parametrize(
    ("shape", "codec"),
    [
        ("standard", "splitcom"),
        pytest.param("standard", "none", marks=pytest.mark.long),
        pytest.param("standard", "video", marks=pytest.mark.long),
        pytest.param("u_shape", "none", marks=pytest.mark.long),
        pytest.param("u_shape", "splitcom_all_int8", marks=pytest.mark.long),
        pytest.param("u_shape", "video", marks=pytest.mark.long),
    ],
)
def test_overlap_changes_no_bit(shape: str, codec: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    for choice in ("none", "transfers", "full"):
        extra = [*FEW, *SHAPES[shape], f"codec={codec}", *overlapped(choice)]
        outcome = train(model_folders["gpt2"], tmp_path / choice, *extra)
        assert outcome.code == 0, outcome.stderr
        check_books(tmp_path / choice, int(shape == "u_shape"))
        assert_same_bits(tmp_path / "none", tmp_path / choice)
    if codec == "none":
        _, _, links = predicted(load_config([tmp_path / "full" / "config.yaml"]))
        summary = json.loads((tmp_path / "full" / "summary.json").read_text())
        assert {link: count.most for link, count in links.items()} == {
            link: count["wire_bytes"] for link, count in summary["links"].items()
        }
    sketches = read(tmp_path / "full" / "run.h5", "sketch")
    assert np.count_nonzero(sketches["link"] == LINKS.index("up_activation")) == 30 * EPOCHS, "each sample, each visit"
    rows = read(tmp_path / "full" / "run.h5", "traffic")
    first = rows[(rows["side"] == 0) & (rows["client"] == 0) & (rows["step"] == 0)]
    assert [np.count_nonzero(first["link"] == link) for link in np.unique(first["link"])] == [PARTS] * (
        4 if shape == "u_shape" else 2
    )


@pytest.mark.long
def test_the_first_steps_decide_and_the_bits_are_the_same(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for choice in ("none", "auto"):
        outcome = train(model_folders["llama"], tmp_path / choice, "codec=fp16", *overlapped(choice))
        assert outcome.code == 0, outcome.stderr
    assert_same_bits(tmp_path / "none", tmp_path / "auto")
    events = read(tmp_path / "auto" / "run.h5", "events")
    (told,) = events[events["kind"] == b"overlap"]
    assert told["text"].split(b":")[0] in (b"full", b"transfers", b"none") and told["step"] == 14


@pytest.mark.parametrize(
    ("tail", "extra"),
    [
        (0, []),
        pytest.param(0, ["roles.server_batching=arrival"], marks=pytest.mark.long),
        pytest.param(1, [], marks=pytest.mark.long),
    ],
    ids=["standard", "as they come", "u_shape"],
)
def test_micro_batches_are_one_step_of_the_whole_batch(
    tail: int, extra: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = [*settings(model_folders["llama"], 2, 1, "sgd", tail), *extra]
    outcome = run_command(["train", *overrides, *overlapped("full"), "--out", str(tmp_path / "run")])
    assert outcome.code == 0, outcome.stderr
    assert_same_run(tmp_path / "run", load_config([], overrides))


@pytest.mark.long
@pytest.mark.parametrize("extra", [["roles.server_batching=merged"], ["roles.server_shards=2"], ["fed.resident=1"]])
def test_servers_of_other_kinds_overlap_too(extra: list[str], model_folders: dict[str, Path], tmp_path: Path) -> None:
    for choice in ("none", "full"):
        outcome = train(model_folders["llama"], tmp_path / choice, *FEW, *extra, "codec=int8", *overlapped(choice))
        assert outcome.code == 0, outcome.stderr
    assert_same_bits(tmp_path / "none", tmp_path / "full")


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_an_overlapped_run_that_was_stopped_goes_on_exactly(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, extra = model_folders["gpt2"], [*SHAPES[shape], "codec=video", *overlapped("full"), "resume=auto"]
    rest = ["rest.policy=every_k", "rest.every=2"]
    assert train(model, tmp_path / "whole", *extra, *rest).code == 0
    stopped = train(model, tmp_path / "run", *extra, *rest, before=at_step(3, signal.SIGTERM))
    assert stopped.code == 75, stopped.stderr
    outcome = train(model, tmp_path / "run", *extra, *rest)
    assert outcome.code == 0, outcome.stderr
    check_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_a_store_that_differs_is_resynced_with_packets_under_way(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    extra = [*SHAPES[shape], "codec=splitcom", *overlapped("full")]
    outcome = train(model_folders["llama"], tmp_path / "run", *extra, before=lose_references)
    assert outcome.code == 0, outcome.stderr
    events = read(tmp_path / "run" / "run.h5", "events")
    assert [event["step"] for event in events if event["kind"] == b"resync"] == [8, 8], "seen once at each end"
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    up = rows[(rows["link"] == LINKS.index("up_activation")) & (rows["client"] == 1) & (rows["step"] == 8)]
    assert len(up) == 2 * 2 * PARTS, "sent and received, all of them twice"


def kill_in_the_middle() -> None:
    """SIGKILL to one client rank, when the answer to the first micro-batch of a step is here and the second is due."""
    original = ClientRole.send_activation
    first: list[Any] = []  # the visit of the part before

    def dying(self: ClientRole, client: Any, part: Any, answer: str, step: int) -> None:
        if step == 3 and self.context.world.rank == 1 and part.place.number == 1:
            client.incoming[answer].expect(step, first[-1])
            while not self.edge.has_arrived:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        first[:] = [part.visit]
        original(self, client, part, answer, step)

    ClientRole.send_activation = dying  # type: ignore[method-assign]


@pytest.mark.parametrize("shape", ["standard", pytest.param("u_shape", marks=pytest.mark.long)])
def test_a_client_killed_between_its_micro_batches_is_named(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    started = time.monotonic()
    extra = [*FEW, *SHAPES[shape], *overlapped("full"), "runtime.timeout_seconds=20"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *extra, before=kill_in_the_middle)
    assert outcome.code in (1, 2) and time.monotonic() - started < 60
    assert outcome.stderr.count("error: ") == 1, outcome.stderr
    assert re.search(r"rank 1 \(client.* is gone during up_activation, step 3", outcome.stderr), outcome.stderr


def kill_the_server() -> None:
    original = StandardServerRole.take

    def dying(self: StandardServerRole, client: Any, place: Any, step: int) -> Any:
        if step == 3 and place.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, client, place, step)

    StandardServerRole.take = dying  # type: ignore[method-assign]


@pytest.mark.long
def test_a_server_killed_between_micro_batches_is_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    started = time.monotonic()
    extra = [*FEW, *overlapped("full"), "runtime.timeout_seconds=20"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *extra, before=kill_the_server)
    assert outcome.code in (1, 2) and time.monotonic() - started < 60
    assert outcome.stderr.count("error: ") == 1 and "rank 2 (server)" in outcome.stderr, outcome.stderr
