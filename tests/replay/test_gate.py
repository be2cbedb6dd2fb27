"""The gate of a replay, visit by visit: who is sent, against what, how stale, how fast it drifts."""

import math

import numpy as np
import pytest
import torch

from splitcom_dist.codec.gated.gate import Drift, Similarity
from splitcom_dist.config.schema import CodecConfig, Config, LinkCodecConfig
from splitcom_dist.replay.gate import GateReplay
from splitcom_dist.replay.nearness import Drifting, Nearness
from splitcom_dist.replay.packets import Packets
from splitcom_dist.replay.visits import Visits

STEPS, LENGTH, WIDTH, FIXED = 6, 10, 4, 190


def visits(cosine: np.ndarray | None = None, reference: np.ndarray | None = None) -> Visits:
    """Of one sample, once an epoch, an epoch a step."""
    count = np.arange(STEPS)
    blank = np.full(STEPS, np.nan)
    return Visits(
        packet=count,
        who=np.zeros(STEPS, np.int64),
        ordinal=count,
        tokens=np.full(STEPS, LENGTH),
        previous=count - 1,
        reference=count - 1 if reference is None else reference,
        sent=np.ones(STEPS, bool),
        cosine=blank if cosine is None else cosine,
        previous_cosine=blank,
        norm=np.ones(STEPS),
        values=np.zeros((STEPS, 0)),
    )


def gate(estimate: object, of: Visits | None = None) -> GateReplay:
    count, whole = np.arange(STEPS), np.full(STEPS, LENGTH)
    packets = Packets(
        link="down_gradient",
        width=WIDTH,
        step=count,
        epoch=count,
        client=np.zeros(STEPS, np.int64),
        tokens=whole,
        samples=np.ones(STEPS, np.int64),
        raw_real=whole * WIDTH * 2,
        wire=np.full(STEPS, FIXED + 1 + LENGTH * WIDTH * 4),
        sent=whole,
        fixed=np.full(STEPS, FIXED),
        full=np.ones(STEPS, bool),
    )
    codec = CodecConfig(down_gradient=LinkCodecConfig(gate="cosine", quantizer="none"))
    return GateReplay(packets, Nearness(of or visits(), estimate), Config(codec=codec))  # type: ignore[arg-type]


def leaving(reference: np.ndarray, now: np.ndarray) -> np.ndarray:
    """A cosine that falls by 0.01 a visit."""
    return np.asarray(1 - 0.01 * (now - reference))


def test_a_sample_is_sent_again_when_it_has_left_its_last_upload() -> None:
    replay = gate(leaving)
    replay.play(0, STEPS, 0.975)  # sent at 0, 0.99 and 0.98 pass, sent at 3
    whole = replay.between(0, STEPS)
    assert (whole.sent, whole.skipped) == (2 * LENGTH, 4 * LENGTH)
    assert whole.wire_bytes == STEPS * (FIXED + 1) + 2 * LENGTH * WIDTH * 4
    assert whole.squared_error == pytest.approx(LENGTH * (0.02 + 0.04) * 2)
    assert [replay.between(step, step + 1).sent for step in range(STEPS)] == [10, 0, 0, 10, 0, 0]


def test_a_threshold_holds_from_when_it_was_told() -> None:
    replay = gate(leaving)
    replay.play(0, 2, 0.995)
    replay.play(2, STEPS, -1.0)
    assert [replay.between(step, step + 1).sent for step in range(STEPS)] == [10, 10, 0, 0, 0, 0]


def test_a_cosine_that_is_no_number_is_sent_as_the_codec_sends_it() -> None:
    replay = gate(lambda reference, now: np.full(len(now), np.nan))
    replay.play(0, STEPS, 0.5)
    assert replay.between(0, STEPS).skipped == 0


def test_drift_is_what_the_codec_would_have_told() -> None:
    replay, drift, age = gate(leaving), Drift(), 0
    replay.play(0, STEPS, 0.975)
    for step in range(STEPS):
        cosine = math.nan if step == 0 else 1 - 0.01 * (age + 1)
        sent = not cosine > 0.975
        age = 0 if sent else age + 1
        told = Similarity(torch.tensor([cosine], dtype=torch.float64), torch.zeros(4, 1))
        drift.observe([7], told, torch.tensor([sent]))
    total, count = drift.take()
    assert replay.between(0, STEPS).drift == pytest.approx(total / count)


def test_similarities_that_the_run_saw_are_taken_and_others_estimated() -> None:
    seen = np.array([math.nan, 0.9, 0.9, 0.9, 0.9, 0.9])
    replay = gate(leaving, visits(seen))
    replay.play(0, STEPS, 0.85)  # 0.9 to the visit before, which the run had sent; from 0 to 2 on the estimate
    assert replay.between(1, 2).squared_error == pytest.approx(LENGTH * 0.2)
    assert replay.between(2, 3).squared_error == pytest.approx(LENGTH * 0.04)


def test_without_sketches_errors_add_up_like_a_walk() -> None:
    near = Drifting(visits(np.array([math.nan, 0.99, 0.99, 0.99, 0.99, 0.99])))
    found = near(np.array([0, 0, 1]), np.array([1, 2, 5]))
    assert found == pytest.approx([0.99, 0.98, 0.96]), "each visit was sent, and 0.01 from the one before"
