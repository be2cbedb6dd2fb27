"""A replay decides and weighs what the real codec would have, on the same values with other settings."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from replayable_run import replayable_run

from splitcom_dist.links import LINK_CODES
from splitcom_dist.replay.play import AsLogged, Outcome, play
from splitcom_dist.replay.recording import open_recording
from splitcom_dist.replay.report import compare
from splitcom_dist.replay.settings import Choices, load_changed
from splitcom_dist.telemetry.hdf5 import read

SKETCHED = "telemetry.sketch=1024"
ALL = "codec=splitcom_all"
Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The directory of a run with these settings, made once."""
    return cache(lambda *settings: replayable_run(tmp_path_factory.mktemp("runs") / "run", *settings))


def of_run(run: Path) -> Outcome:
    """What a run did, by its own logs."""
    recording = open_recording(run)
    return play(recording, recording.logs.config, AsLogged(recording.logs))


def replayed(run: Path, *overrides: str, gate: str = "", theta: str = "", controller: str = "") -> Outcome:
    lists = ([text] if text else [] for text in (gate, theta, controller))
    settings = Choices(*lists).settings(load_changed(run, overrides))
    (outcome,) = compare(open_recording(run), settings).outcomes.values()
    return outcome


@pytest.mark.parametrize("settings", [[ALL], [ALL, SKETCHED], ["codec=splitcom_rescaled", SKETCHED, "shape=u_shape"]])
def test_its_own_settings_give_the_bytes_of_the_run_to_the_last_one(settings: list[str], logged: Runs) -> None:
    run = logged(*settings)
    found, rows = of_run(run), read(run / "run.h5", "traffic")
    for link, part in found.links.items():
        own = rows[rows["link"] == LINK_CODES[link]]
        assert (part.wire_bytes, part.raw_bytes) == (own["wire"].sum(), own["raw_real"].sum()), link
        assert (part.sent, part.skipped) == (own["n_I"].sum(), own["n_S"].sum()) and part.sent and part.skipped
    assert found.other_bytes == sum(read(run / "run.h5", "rounds")["bytes"]) + 20 * 7
    assert replayed(run).links == found.links, "the run's own controller decides the same again"


@pytest.mark.parametrize("theta", ["0.9/0.8", "0.99/0.97", "0.999"])
def test_other_thresholds_send_what_a_run_with_them_sends(theta: str, logged: Runs) -> None:
    up, down = (theta.split("/") * 2)[:2]
    real = of_run(logged(ALL, SKETCHED, f"codec.up_activation.theta={up}", f"codec.down_gradient.theta={down}"))
    found = replayed(logged(ALL, SKETCHED), theta=theta)
    bare = replayed(logged(ALL), theta=theta)
    for link, part in real.links.items():
        assert found.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.03), link
        assert found.links[link].stale_error == pytest.approx(part.stale_error, rel=0.05), link
        assert bare.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.15), "without sketches, roughly"


def test_sketches_of_a_run_without_a_gate_tell_what_one_would_have_done(logged: Runs) -> None:
    real = of_run(logged(ALL, SKETCHED))
    plain = logged("codec=fp16", SKETCHED)
    found = replayed(plain, gate="cosine", theta="0.98/0.9")
    for link, part in real.links.items():
        assert found.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.03), link
    assert replayed(plain, gate="always").wire_bytes == of_run(plain).wire_bytes


def test_another_quantizer_weighs_what_it_would_have(logged: Runs) -> None:
    run = logged(ALL, SKETCHED)
    real = of_run(logged("codec=splitcom_all_int8", SKETCHED))
    found = replayed(run, "codec=splitcom_all_int8")
    for link, part in real.links.items():
        assert found.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.01), link


def test_bang_bang_meets_the_logged_perplexities(logged: Runs) -> None:
    control = ["control=bang_bang", "control.bang_bang.tolerance=0.03"]
    real = of_run(logged(ALL, SKETCHED, *control))
    found = replayed(logged(ALL, SKETCHED), *control, controller="bang_bang")
    assert found.thetas == real.thetas and set(found.thetas["up_activation"]) == {0.98, 0.998}
    assert found.wire_bytes == pytest.approx(real.wire_bytes, rel=0.02)


def test_a_rescaling_gate_is_replayed_as_it_compares(logged: Runs) -> None:
    codec = ["codec=splitcom_rescaled", SKETCHED]
    found = replayed(logged(*codec), theta="0.99/0.9")
    thetas = ["codec.up_activation.theta=0.99", "codec.down_gradient.theta=0.9"]
    real = of_run(logged(*codec, *thetas))
    for link, part in real.links.items():
        assert found.links[link].wire_bytes == pytest.approx(part.wire_bytes, rel=0.05), link
        assert found.links[link].stale_error == pytest.approx(part.stale_error, rel=0.1), link


def test_the_stale_error_is_the_distance_from_what_the_other_end_has(logged: Runs) -> None:
    """Of a link that is never sent again: the mean square of |x(epoch) - x(0)| / |x(epoch)|."""
    run = logged(ALL, SKETCHED)
    found = replayed(run, theta="-1")
    rows = read(run / "run.h5", "sketch")
    rows = rows[rows["link"] == 0]
    first = {row["sample"]: row for row in rows if row["epoch"] == 0}
    squares = 0.0
    for row in rows:
        then, now = (each["values"].astype(float) * each["norm"] for each in (first[row["sample"]], row))
        squares += row["tokens"] * float(np.sum((now - then) ** 2)) / float(row["norm"]) ** 2
    assert found.links["up_activation"].stale_error == pytest.approx((squares / rows["tokens"].sum()) ** 0.5, rel=0.05)
    assert found.links["up_activation"].sent == rows["tokens"][rows["epoch"] == 0].sum()
