"""The video codec, its rivals and resting heads in whole runs: honest books, references that survive what happens."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from test_runs import EPOCHS, check_books, lose_references, train

from splitcom_dist.codec.prefix import KeyBook
from splitcom_dist.links import LINKS
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.telemetry.hdf5 import read

UP, DOWN = LINKS.index("up_activation"), LINKS.index("down_gradient")


@pytest.mark.parametrize("shape", ["standard", "u_shape"])
@pytest.mark.parametrize("codec", ["video", "aqsgd", "splitlite", "tah"])
def test_every_rival_trains_and_keeps_honest_books(
    codec: str, shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = train(model_folders["llama_tied"], tmp_path / "run", f"codec={codec}", f"shape={shape}")
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run", int(shape == "u_shape"))
    assert summary["ppl"] < summary["untuned_ppl"]
    frames = {link: counts["frames"] for link, counts in summary["links"].items()}
    positions = sum(frames["up_activation"].values())
    if codec in ("aqsgd", "splitlite"):
        assert frames["up_activation"] == {
            "I": positions // EPOCHS,
            "P": positions - positions // EPOCHS,
            "S": 0,
            "C": 0,
        }
    if codec == "video":
        assert frames["up_activation"]["I"] < positions // EPOCHS, "prefixes are sent once"
        assert (
            summary["links"]["up_activation"]["wire_bytes"] < 0.35 * summary["links"]["up_activation"]["raw_real_bytes"]
        )


def test_prefix_sharing_hides_when_told_and_saves_when_not(model_folders: dict[str, Path], tmp_path: Path) -> None:
    sizes = {}
    for sharing in ("true", "false"):
        out = tmp_path / sharing
        outcome = train(model_folders["llama"], out, "codec=video", f"codec.prefix_sharing={sharing}")
        assert outcome.code == 0, outcome.stderr
        rows = read(out / "run.h5", "traffic")
        first = rows[(rows["side"] == 0) & (rows["link"] == UP) & (rows["epoch"] == 0)]
        sizes[sharing] = first["n_I"].sum()
        if sharing == "false":
            assert first["n_I"].sum() == first["tokens"].sum(), "every position of every sample"
    assert sizes["true"] < 0.97 * sizes["false"], "this corpus shares few prefixes"


@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_a_head_that_is_frozen_after_an_epoch_tells_its_last_word_and_is_silent(
    shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rest = ["rest.policy=freeze_after", "rest.epochs=1", f"shape={shape}"]
    outcome = train(model_folders["gpt2"], tmp_path / "run", "codec=video", *rest)
    assert outcome.code == 0, outcome.stderr
    check_books(tmp_path / "run", int(shape == "u_shape"))
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    sent = rows[rows["side"] == 0]
    by = {
        (epoch, link): sent[(sent["epoch"] == epoch) & (sent["link"] == link)]
        for epoch in range(3)
        for link in (UP, DOWN)
    }
    assert (by[0, UP]["wire"] > 0).all() and (by[0, DOWN]["n_I"] > 0).all()
    assert (by[1, UP]["wire"] > 0).all() and (by[1, DOWN]["n_I"] == 0).all()
    assert (by[2, UP]["wire"] == 0).all() and (by[2, DOWN]["wire"] == 0).all()
    assert all(len(by[epoch, link]) == len(by[0, UP]) for epoch in range(3) for link in (UP, DOWN)), "baselines pay on"
    train_rows = read(tmp_path / "run" / "run.h5", "train")
    assert len(np.unique(train_rows["step"])) == len(np.unique(sent["step"])), "the server trains in every epoch"
    if shape == "standard":
        assert set(read(tmp_path / "run" / "run.h5", "rounds")["epoch"]) == {0}, "what rests is not averaged"


def test_the_frozen_corner_never_moves_the_head(model_folders: dict[str, Path], tmp_path: Path) -> None:
    rest = ["rest.policy=freeze_after", "rest.epochs=0"]
    outcome = train(model_folders["llama"], tmp_path / "run", "codec=video", *rest)
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run")
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    head = {name: tensor for name, tensor in saved.items() if ".0." in name or ".1." in name}
    assert head and all(not tensor.any() for name, tensor in head.items() if "lora_B" in name)
    assert summary["links"]["down_gradient"]["frames"]["I"] == 0 and summary["ppl"] < summary["untuned_ppl"]


@pytest.mark.parametrize("codec", ["video", "splitcom"])
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_every_second_epoch_nothing_crosses_the_first_cut(
    shape: str, codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rest = ["rest.policy=every_k", "rest.every=2", f"shape={shape}"]
    outcome = train(model_folders["llama"], tmp_path / "run", f"codec={codec}", *rest)
    assert outcome.code == 0, outcome.stderr
    check_books(tmp_path / "run", int(shape == "u_shape"))
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    sent = rows[(rows["side"] == 0) & np.isin(rows["link"], (UP, DOWN))]
    assert {epoch: bool(sent[sent["epoch"] == epoch]["wire"].any()) for epoch in range(3)} == {
        0: True,
        1: False,
        2: True,
    }


@pytest.mark.parametrize(("least", "expected"), [(1e3, [1, 2]), (-1e3, [1])])
def test_the_gain_policy_rests_and_wakes(
    least: float, expected: list[int], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """No gain is ever a thousand nats: heads wake after every rest. At minus a thousand they never do."""
    rest = ["rest.policy=gain", f"rest.least={least}", "train.epochs=5"]
    outcome = train(model_folders["llama"], tmp_path / "run", "codec=video", *rest)
    if least < 0:
        assert outcome.code == 2 and "rest.least" in outcome.stderr
        return
    assert outcome.code == 0, outcome.stderr
    rows = read(tmp_path / "run" / "run.h5", "traffic")
    sent = rows[(rows["side"] == 0) & (rows["link"] == UP)]
    crossing = [bool(sent[sent["epoch"] == epoch]["wire"].any()) for epoch in range(5)]
    assert crossing[:3] == [True, False, True], "rest as soon as all references exist, wake when it gains too little"
    events = read(tmp_path / "run" / "run.h5", "events")
    texts = [event["text"].decode() for event in events if event["kind"] == b"rest"]
    assert len(texts) == 6 and "heads rest" in texts[1] and "heads wake" in texts[2]


def lose_book() -> None:
    """Make the server forget which samples one client has, and with it every key."""
    original = ServerRole.step

    def forgetful(self: ServerRole, step: int) -> None:
        if step == 8:
            book = self.clients[1].book
            assert isinstance(book, KeyBook)
            book.clear()
        original(self, step)

    ServerRole.step = forgetful  # type: ignore[method-assign]


@pytest.mark.parametrize("loss", [lose_references, lose_book])
@pytest.mark.parametrize("shape", ["standard", "u_shape"])
def test_lost_references_or_keys_are_resynced(
    shape: str, loss: object, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = train(model_folders["llama"], tmp_path / "run", "codec=video", f"shape={shape}", before=loss)
    assert outcome.code == 0, outcome.stderr
    events = read(tmp_path / "run" / "run.h5", "events")
    resyncs = [event for event in events if event["kind"] == b"resync"]
    assert [event["step"] for event in resyncs] == [8, 8], [event["text"] for event in resyncs]
    check_books(tmp_path / "run", int(shape == "u_shape"))


@pytest.mark.parametrize("store", [["store=disk", "store_dtype=int8"], ["store_rows=40"], ["store_dtype=float32"]])
def test_references_may_live_on_disk_in_int8_or_be_evicted(
    store: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    settings = [f"codec.{link}.{setting}" for link in ("up_activation", "down_activation") for setting in store]
    outcome = train(model_folders["llama"], tmp_path / "run", "codec=video", "shape=u_shape", *settings)
    assert outcome.code == 0, outcome.stderr
    summary = check_books(tmp_path / "run", tail_layers=1)
    frames = summary["links"]["up_activation"]["frames"]
    assert summary["ppl"] < summary["untuned_ppl"]
    if store == ["store_rows=40"]:
        assert frames["I"] > sum(frames.values()) // EPOCHS, "what was forgotten is sent whole again"
    assert not list((tmp_path / "run").rglob("*.bin")), "references go with the run"


def test_adapters_may_cross_in_int8(model_folders: dict[str, Path], tmp_path: Path) -> None:
    summaries = {}
    for quantizer in ("none", "int8"):
        out = tmp_path / quantizer
        outcome = train(model_folders["llama"], out, "codec=none", f"fed.adapter_quantizer={quantizer}")
        assert outcome.code == 0, outcome.stderr
        summaries[quantizer] = json.loads((out / "summary.json").read_text())
    assert summaries["int8"]["adapter_bytes"] < 0.25 * summaries["none"]["adapter_bytes"]
    assert summaries["int8"]["ppl"] == pytest.approx(summaries["none"]["ppl"], rel=2e-3)


def fill_the_disk() -> None:
    """No room for references from the server's tenth growth on."""
    allocate, calls = os.posix_fallocate, iter(range(10**6))

    def posix_fallocate(descriptor: int, offset: int, length: int) -> None:
        if next(calls) >= 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, length)

    os.posix_fallocate = posix_fallocate


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_checkpoint(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    disk = ["codec.up_activation.store=disk", "control=ddpg", "fed.every=1"]
    outcome = train(model_folders["llama"], tmp_path / "run", "codec=video", *disk, before=fill_the_disk)
    assert outcome.code == 2
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ") and "references" in line and "disk full" in line and "store" in line
    assert load_file(tmp_path / "run" / "checkpoints" / "ddpg.safetensors")


def test_thresholds_move_the_error_bound(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """A controller's theta is a bound on the relative error: sqrt(2 - 2 theta)."""
    frames = {}
    for theta in (0.5, 0.9999):
        values = [f"control.activation.{state}={theta}" for state in ("low", "high")]
        out = tmp_path / str(theta)
        outcome = train(model_folders["gpt2"], out, "codec=video", "control.name=bang_bang", *values)
        assert outcome.code == 0, outcome.stderr
        frames[theta] = json.loads((out / "summary.json").read_text())["links"]["up_activation"]["frames"]
    assert frames[0.5]["P"] == 0 < frames[0.9999]["P"]
