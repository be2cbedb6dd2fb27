"""Cuts that move between rounds: whoever trains a block next goes on from where it was, and every byte is booked."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import assert_same_run, settings
from test_mixed_cuts import run
from test_resume import at_step, check_same
from test_runs import check_packets, train
from test_servers import assert_same_adapters

from splitcom_dist.config.files import load_config
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.measured import Measured
from splitcom_dist.roles import aggregator
from splitcom_dist.state import State, facts, read_facts
from splitcom_dist.telemetry.hdf5 import read

MOVES = "fed.cuts.policy=balance_time", "fed.cuts.deepest=3"
Script = list[dict[int, int]]  # by decision, then by client, where it is cut from then on


class Scripted:
    """A policy that goes by a script, again and again."""

    def __init__(self, script: Script) -> None:
        self._script, self._next = script, 0

    def decide(self, cuts: Cuts, measured: Mapping[int, Measured]) -> dict[int, tuple[int, str]]:
        assert all(each.computing > 0 and each.serving > 0 and each.loss > 0 for each in measured.values())
        self._next += 1
        return {client: (cut, "scripted") for client, cut in self._script[(self._next - 1) % len(self._script)].items()}

    def state(self) -> State:
        return {"facts": facts({"next": self._next})}

    def load(self, state: State) -> None:
        self._next = read_facts(state["facts"])["next"]


def scripted(*script: dict[int, int], also: Callable[[], None] | None = None) -> Callable[[], None]:
    def patch() -> None:
        aggregator.make_policy = lambda *_: Scripted(list(script))  # type: ignore[attr-defined]
        if also is not None:
            also()

    return patch


def moved(out: Path, expected: int) -> np.ndarray:
    """The events of moves, which must be so many."""
    events = read(out / "run.h5", "events")
    rows: np.ndarray = events[(events["kind"] == b"cut") & (events["step"] >= 0)]
    assert len(rows) == expected, rows
    return rows


SHAPES: dict[str, tuple[str, int, list[str]]] = {  # by name: a family, tail layers and what else is set
    "three ranks": ("gpt2", 0, []),
    "one rank, parked": ("llama", 0, ["roles.client_ranks=1", "fed.resident=1"]),
    "two servers": ("gpt2", 0, ["roles.server_ranks=2"]),
    "u_shape": ("llama", 1, ["fed.cuts.deepest=2", "roles.client_ranks=2"]),
}


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=[] if shape == "three ranks" else pytest.mark.long) for shape in SHAPES]
)
def test_moves_change_nothing_where_cuts_do_not_matter(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Plain SGD, averaging in every step: a block may be trained by anybody, now here, now there."""
    family, tail, extra = SHAPES[shape]
    whole = [*settings(model_folders[family], 3, 1, "sgd", tail), *MOVES, *extra]
    script: Script = [{0: 2}, {1: 2, 2: 2, 0: 1}, {}, {1: 1, 0: 2}, {2: 1}]
    outcome = run_command(["train", *whole, "--out", str(tmp_path / "run")], before=scripted(*script))
    assert outcome.code == 0, outcome.stderr
    assert_same_run(tmp_path / "run", load_config([], whole))
    moved(tmp_path / "run", 24)  # of 20 steps, the last of which is followed by none
    check_packets(tmp_path / "run")


@pytest.mark.parametrize("tail", [0, pytest.param(1, marks=pytest.mark.long)], ids=["standard", "u_shape"])
def test_a_moved_block_goes_on_with_its_moments(tail: int, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """With one client AdamW steps alike at either end: a run whose cut moves equals one whose cut does not."""
    still = settings(model_folders["gpt2"], 1, 1, "adamw", tail)
    run(tmp_path / "still", still)
    deepest = 3 - tail
    script: Script = [{0: deepest}, {0: 2}, {0: 1}, {0: 2}, {0: 1}]
    moving = [*still, *MOVES, f"fed.cuts.deepest={deepest}"]
    outcome = run_command(["train", *moving, "--out", str(tmp_path / "run")], before=scripted(*script))
    assert outcome.code == 0, outcome.stderr
    assert_same_adapters(tmp_path / "run", tmp_path / "still")
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    handed = rows[(rows["tokens"] == 0) & (rows["side"] == 0)]
    assert len(handed) == len(moved(tmp_path / "run", 15 if tail else 19)), "what is remembered crosses once a move"
    check_packets(tmp_path / "run")


@pytest.mark.parametrize("codec", ["splitcom", pytest.param("video", marks=pytest.mark.long)])
def test_the_links_of_a_moved_client_begin_with_i_frames(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Those of the others go on; nothing is sent twice."""
    settings = ["train.epochs=3", "fed.every=100", f"codec={codec}", *MOVES, "model.cut_layer=1"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *settings, before=scripted({}, {0: 2}))
    assert outcome.code == 0, outcome.stderr
    (move,) = moved(tmp_path / "run", 1)
    assert move["text"].decode() == "client 0: cut 1 -> 2 (scripted)"
    assert not (read(tmp_path / "run" / "run.h5", "events")["kind"] == b"resync").any()
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    rows = rows[(rows["side"] == 0) & (rows["link"] == 0) & (rows["tokens"] > 0)]
    skipped = {
        (client, epoch): int(of["n_S"].sum())
        for client in (0, 1)
        for epoch in (1, 2)
        for of in [rows[(rows["client"] == client) & (rows["epoch"] == epoch)]]
    }
    assert skipped[0, 1] > 0 and skipped[1, 1] > 0 and skipped[1, 2] > 0
    assert skipped[0, 2] == 0 if codec == "splitcom" else skipped[0, 2] < skipped[0, 1]
    check_packets(tmp_path / "run")


@pytest.mark.long
def test_servers_go_on_alike_from_what_their_clients_hand_over(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Two servers remember what one would: its clients' moments and its own, weighted by samples."""
    script: Script = [{0: 3, 1: 3}, {0: 1}, {1: 2, 2: 3}, {1: 1, 2: 1}]
    for servers in (1, 2):
        whole = [*settings(model_folders["gpt2"], 3, 1, "adamw"), *MOVES, f"roles.server_ranks={servers}"]
        out = ["--out", str(tmp_path / str(servers))]
        outcome = run_command(["train", *whole, *out], before=scripted(*script))
        assert outcome.code == 0, outcome.stderr
    assert_same_adapters(tmp_path / "1", tmp_path / "2")


@pytest.mark.long
@pytest.mark.parametrize("extra", [[], ["fed.resident=1", "codec=video"]])
def test_a_run_whose_cuts_move_goes_on_exactly_after_a_stop(
    extra: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    moves, script = [*MOVES, "resume=auto", *extra], ({0: 3, 1: 1}, {2: 3}, {0: 1})
    for out, before in ((tmp_path / "whole", scripted(*script)), (tmp_path / "run", scripted(*script))):
        if out.name == "run":
            stopped = scripted(*script, also=at_step(5, signal.SIGTERM))
            assert train(model_folders["gpt2"], out, *moves, before=stopped).code == 75
        outcome = train(model_folders["gpt2"], out, *moves, before=before)
        assert outcome.code == 0, outcome.stderr
    check_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("policy", ["splitft", "balance_time"])
def test_a_slow_client_trains_fewer_blocks_than_a_fast_one(
    policy: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The real policies, by measured times: so slow that what else the machine does makes no fast client slower."""
    slow = ["fed.speed.dist=list", "fed.speed.values=[1,0.02,1]", "roles.client_ranks=3", "fed.clients=3"]
    extra = ["model.cut_layer=2", "train.epochs=4", f"fed.cuts.policy={policy}", "fed.cuts.deepest=3", *slow]
    outcome = train(model_folders["gpt2"], tmp_path / "run", *extra)
    assert outcome.code == 0, outcome.stderr
    cuts = dict.fromkeys(range(3), 2)
    events = read(tmp_path / "run" / "run.h5", "events")
    for text in (row["text"].decode() for row in events if row["kind"] == b"cut" and row["step"] >= 0):
        client, _, told = text.removeprefix("client ").partition(": cut ")
        cuts[int(client)] = int(told.split()[2])
    assert cuts[1] == 1 and max(cuts[0], cuts[2]) > 1, cuts
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in adapter.values())
