"""Clients that are parked between their turns, and rounds in which only some take part."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_resume import at_step, check_same, go_on
from test_runs import check_books, train

from splitcom_dist.roles.roster import Roster
from splitcom_dist.telemetry.hdf5 import read

MANY = ["fed.clients=7", "train.batch_size=2"]  # on two ranks; shards of 8 or 7 samples, 4 steps an epoch
CASES = {
    "splitcom": ["codec=splitcom_all", "control=bang_bang"],
    "video": ["codec=video", "fed.adapter_quantizer=int8"],
    "disk": ["codec=video", "codec.up_activation.store=disk"],
    "u_shape": ["shape=u_shape", "codec=splitcom_all_int8", "control=ddpg", "control.ddpg.every=round"],
    "u_video": ["shape=u_shape", "codec=video", "control=byte_budget", "control.byte_budget.megabytes=1"],
}


def watch_residents() -> None:
    """Fail where more clients are in memory than a rank's limit, here 1, or those of one wave, and where none parks."""
    original = Roster.present

    def watched(self: Roster[Any], numbers: list[int]) -> list[Any]:
        clients = original(self, numbers)
        assert list(self._present) == list(numbers), "clients of other waves are in memory"
        return clients

    Roster.present = watched  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    ("case", "share"), [("u_video", 1), *(pytest.param(case, 0.5, marks=pytest.mark.long) for case in CASES)]
)
def test_parked_clients_go_on_bit_for_bit(
    case: str, share: float, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = [*MANY, *CASES[case], f"fed.participation={share}"]
    go_on(model_folders["gpt2"], tmp_path / "resident", settings)
    parked = train(model_folders["gpt2"], tmp_path / "parked", *settings, "fed.resident=1", before=watch_residents)
    assert parked.code == 0, parked.stderr
    check_same(tmp_path / "parked", tmp_path / "resident")
    assert not (tmp_path / "parked" / "parked").exists(), "what was parked is of use to its run only"


@pytest.mark.parametrize("case", ["splitcom", pytest.param("u_video", marks=pytest.mark.long)])
def test_a_run_with_parked_clients_stops_and_goes_on_exactly(
    case: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = [*MANY, *CASES[case], "fed.participation=0.5", "fed.resident=2", "resume=auto"]
    go_on(model_folders["llama"], tmp_path / "whole", settings)
    for step, role in ((4, "server"), (7, "server")):
        stopped = train(model_folders["llama"], tmp_path / "run", *settings, before=at_step(step, signal.SIGTERM, role))
        assert stopped.code == 75, stopped.stderr
    go_on(model_folders["llama"], tmp_path / "run", settings)
    check_same(tmp_path / "run", tmp_path / "whole")
    check_books(tmp_path / "run", tail_layers=int(case == "u_video"))


@pytest.mark.parametrize("servers", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("tail", [0, 1], ids=["standard", "u_shape"])
def test_a_step_in_which_nobody_drawn_has_a_batch_changes_nothing(
    tail: int, servers: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Shards of 13 and 12 samples, one client a round of 4 steps: drawn, the smaller one has 3 batches."""
    overrides = ["fed.clients=2", "data.train_samples=25", "fed.every=4", "fed.participation=0.5", "train.epochs=8"]
    overrides += [f"model.tail_layers={tail}", f"roles.server_ranks={servers}"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *overrides)
    assert outcome.code == 0, outcome.stderr
    train_rows = read(tmp_path / "run" / "run.h5", "train")
    small = {step // 4 for step in train_rows[train_rows["client"] == 1]["step"].tolist()}
    empty = {4 * number + 3 for number in small}
    assert 0 < len(empty) < 8, "both kinds of rounds are there"
    assert set(range(32)) - set(train_rows["step"].tolist()) == empty
    assert np.isfinite(train_rows[train_rows["client"] == -1]["target_tokens"]).all()
    rounds = read(tmp_path / "run" / "run.h5", "rounds")
    assert (rounds["weight"] > 0).all() and rounds["participants"].sum() == 8
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ppl"] < summary["untuned_ppl"]
