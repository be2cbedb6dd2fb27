"""Slow clients: waited for without a trace in the result, or left behind at the deadline by all ends together."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Clock
from safetensors.torch import load_file
from test_resume import at_step, check_same
from test_runs import check_books, train

from splitcom_dist.codec.header import HEADER
from splitcom_dist.links import LINKS
from splitcom_dist.roles import client as client_module
from splitcom_dist.roles import pace
from splitcom_dist.telemetry.hdf5 import read

THREE = ["roles.client_ranks=3", "fed.every=5"]  # 17, 17 and 16 samples: one round an epoch, of 5 steps
SLOW = [*THREE, "fed.speed.dist=list", "fed.speed.values=[1,1,0.1]"]
HEAD_SECONDS = 0.06  # 0.6 for the slow client, whose second turn of a round ends behind the deadline
DEADLINE = ["fed.straggler=deadline", "fed.deadline_seconds=0.7"]


def weigh_heads() -> None:
    """Heads of tiny models compute in no time; give them some."""
    forward, clock = client_module.forward_blocks, Clock()  # type: ignore[attr-defined]

    def heavy(*arguments: Any, **named: Any) -> Any:
        clock.sleep(HEAD_SECONDS)
        return forward(*arguments, **named)

    client_module.forward_blocks = heavy  # type: ignore[attr-defined]
    pace.time = clock  # type: ignore[attr-defined, assignment]


def weigh_heads_and(disturb: Callable[[], None]) -> Callable[[], None]:
    def patch() -> None:
        weigh_heads()
        disturb()

    return patch


def check_absences(out: Path) -> int:
    """Packets, events and summary tell the same number of turns left out; returns it."""
    traffic = read(out / "run.h5", "traffic")
    absent = traffic[(traffic["tokens"] == 0) & (traffic["side"] == 0)]
    assert set(absent["link"].tolist()) <= {0} and set(absent["wire"].tolist()) <= {HEADER.size}
    events = read(out / "run.h5", "events")
    told = [row["text"].decode().split() for row in events if row["kind"] == b"deadline"]
    for client in np.unique(absent["client"]).tolist():
        assert (absent["client"] == client).sum() == sum(int(words[4]) for words in told if int(words[1]) == client)
    left_out: int = json.loads((out / "summary.json").read_text())["turns_left_out"]
    assert left_out == len(absent)
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    return left_out


@pytest.mark.long
def test_waiting_for_a_slow_client_changes_nothing_but_time(model_folders: dict[str, Path], tmp_path: Path) -> None:
    model, settings = model_folders["gpt2"], ["codec=splitcom"]
    for name, more in (
        ("plain", THREE),
        ("slow", SLOW),
        ("never late", [*SLOW, "fed.straggler=deadline", "fed.deadline_seconds=999"]),
    ):
        outcome = train(model, tmp_path / name, *settings, *more, before=weigh_heads)
        assert outcome.code == 0, outcome.stderr
    for name in ("slow", "never late"):
        check_same(tmp_path / name, tmp_path / "plain")
        rows = read(tmp_path / name / "telemetry" / "rank_00002.h5", "train")
        assert len(rows) == 12 and rows["seconds"].min() > 10 * HEAD_SECONDS, "seconds hold the stretch"
        fast = read(tmp_path / name / "telemetry" / "rank_00001.h5", "train")
        assert len(fast) == 15 and fast["seconds"].min() < 0.5 * rows["seconds"].min()
        events = read(tmp_path / name / "run.h5", "events")
        told = [row["text"] for row in events if row["kind"] == b"speed"]
        assert told == [b"client 2 computes at 0.1000 of its rank's"]


@pytest.mark.parametrize("batching", ["arrival", pytest.param("sequential", marks=pytest.mark.long)])
def test_who_comes_first_is_served_first(batching: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """The slow client is the first in the order of numbers, for which the others wait only where they are taken so."""
    slow = [*THREE, "fed.speed.dist=list", "fed.speed.values=[0.1,1,1]", f"roles.server_batching={batching}"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=none", *slow, before=weigh_heads)
    assert outcome.code == 0, outcome.stderr
    check_books(tmp_path / "run")
    answers = read(tmp_path / "run" / "telemetry" / "rank_00003.h5", "traffic")
    answers = answers[(answers["link"] == LINKS.index("down_gradient")) & (answers["side"] == 0)]
    orders = [answers["client"][answers["step"] == step].tolist() for step in np.unique(answers["step"])]
    assert [len(order) for order in orders] == [3, 3, 3, 3, 2] * 3
    assert {order[-1 if batching == "arrival" else 0] for order in orders} == {0}


@pytest.mark.parametrize(
    "settings",
    [
        ["codec=splitcom"],
        pytest.param(["codec=video", "shape=u_shape"], marks=pytest.mark.long),
        pytest.param(["codec=video", "roles.server_ranks=2", "fed.adapter_quantizer=int8"], marks=pytest.mark.long),
        pytest.param(["codec=frozen"], marks=pytest.mark.long),
        pytest.param(["codec=int8", "roles.server_batching=arrival"], marks=pytest.mark.long),
        pytest.param(["codec=splitcom_all", "shape=u_shape", "roles.server_ranks=3"], marks=pytest.mark.long),
    ],
    ids=lambda settings: "-".join(setting.partition("=")[2] for setting in settings),
)
def test_a_late_client_is_left_behind(settings: list[str], model_folders: dict[str, Path], tmp_path: Path) -> None:
    """The slow one takes two of its four turns in each of three rounds. A frozen head computes once a sample."""
    out = tmp_path / "run"
    outcome = train(model_folders["gpt2"], out, *settings, *SLOW, *DEADLINE, before=weigh_heads)
    assert outcome.code == 0, outcome.stderr
    tail, int8 = int("shape=u_shape" in settings), "fed.adapter_quantizer=int8" in settings
    summary = check_books(out, tail_layers=tail, int8=int8)
    left_out = check_absences(out)
    turns = read(out / "run.h5", "train")
    taken = [int((turns["client"] == client).sum()) // 2 for client in range(3)]
    if "codec=frozen" in settings:
        assert taken == [15, 15, 12 - left_out] and 2 <= left_out <= 6
        return
    assert left_out == 6 and taken == [15, 15, 6]
    together = turns[turns["client"] == -1]
    seconds = together["seconds"] + together["wait"]
    slow = np.isin(together["step"], turns[turns["client"] == 2]["step"])
    assert np.median(seconds[~slow]) < 10 * HEAD_SECONDS < seconds[slow].max(), "steps last as long as who is there"
    assert "\n6 turns left out by late clients\n" in outcome.stdout
    assert summary["ppl"] < summary["untuned_ppl"]


def test_a_dry_run_says_that_late_clients_make_it_less(model_folders: dict[str, Path], tmp_path: Path) -> None:
    line = f"at most: a turn that a late client leaves out is one packet of {HEADER.size} bytes"
    for more, there in (([], False), (DEADLINE, True)):
        outcome = train(model_folders["gpt2"], tmp_path / "run", *THREE, *more, "--dry-run")
        assert outcome.code == 0 and (line in outcome.stdout) is there


def test_steps_in_which_everybody_is_late_change_nothing(model_folders: dict[str, Path], tmp_path: Path) -> None:
    late = ["fed.straggler=deadline", "fed.deadline_seconds=1e-6", "fed.clients=4", "fed.resident=1"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=video", "fed.every=4", *late)
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run")
    assert check_absences(tmp_path / "run") == 3 * (4 * 4 - 4 - 2), "13 and 12 samples: 4, 4, 3 and 3 batches"
    assert np.unique(read(tmp_path / "run" / "run.h5", "train")["step"]).tolist() == [0, 4, 8]
    assert summary["ppl"] < summary["untuned_ppl"]


@pytest.mark.long
def test_a_run_with_late_clients_stops_and_goes_on(model_folders: dict[str, Path], tmp_path: Path) -> None:
    settings = ["codec=video", *SLOW, *DEADLINE, "resume=auto"]
    for step in (3, 8):  # in the middle of a round, when the slow one is late
        before = weigh_heads_and(at_step(step, signal.SIGTERM))
        stopped = train(model_folders["gpt2"], tmp_path / "run", *settings, before=before)
        assert stopped.code == 75, stopped.stderr
    done = train(model_folders["gpt2"], tmp_path / "run", *settings, before=weigh_heads)
    assert done.code == 0, done.stderr
    check_books(tmp_path / "run")
    assert check_absences(tmp_path / "run") == 6
    late = read(tmp_path / "run" / "run.h5", "traffic")
    late = late[(late["tokens"] == 0) & (late["side"] == 0)]
    assert {3, 8} <= set(late["step"].tolist()), "who was late before the stop is late after it"
