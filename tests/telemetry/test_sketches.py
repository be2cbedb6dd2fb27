"""The sketch table says of every sample and visit what the values were, against the visit before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from splitcom_dist.codec.labels import LabelCache
from splitcom_dist.codec.visit import Visit
from splitcom_dist.data.tokens import Sample
from splitcom_dist.telemetry.count_sketch import CountSketch
from splitcom_dist.telemetry.drift_measures import BANDS, band_of, drift_measures
from splitcom_dist.telemetry.hdf5 import RankLog, read
from splitcom_dist.telemetry.schema import row_dtype
from splitcom_dist.telemetry.sketches import MASSIVE, SketchLog
from splitcom_dist.telemetry.text_facts import facts_of_labels, facts_of_shard

WIDTH, K = 64, 512
VISIT = Visit([7, 3], torch.tensor([40, 9]))


def two_visits() -> tuple[Tensor, Tensor]:
    """Rows (49, d) and what became of them: two massive channels stay, position 5 of the first sample changes most."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(49, WIDTH, generator=generator)
    rows[:, [2, 9]] *= 30
    change = 0.1 * torch.randn(49, WIDTH, generator=generator)
    change[:, [2, 9]] = 0
    change[5] *= 10
    return rows, rows + change


def record(path: Path, visits: list[Tensor], resumed_after: int | None = None) -> np.ndarray:
    """The table after these visits, each in a step and an epoch of its own."""
    with RankLog(path, rank=0, role="client", config="", sketch=K) as log:
        sketches = SketchLog(log, CountSketch(K, WIDTH, 40), WIDTH, lambda sample: (4, sample - 1))
        for step, rows in enumerate(visits):
            if step == resumed_after:
                state = sketches.state()
                sketches = SketchLog(log, CountSketch(K, WIDTH, 40), WIDTH, lambda sample: (4, sample - 1))
                sketches.load(state)
            sketches.record(step, step, 1, 0, VISIT, rows)
    return read(path, "sketch")


def test_a_visit_is_told_against_the_one_before(tmp_path: Path) -> None:
    before, now = two_visits()
    rows = record(tmp_path / "rank_00000.h5", [before, now])
    assert rows["sample"].tolist() == [7, 3, 7, 3] and rows["tokens"].tolist() == [40, 9, 40, 9]
    assert rows["target_start"].tolist() == [36, 5] * 2 and rows["shared"].tolist() == [6, 2] * 2
    assert np.isnan(rows["cosine"][:2]).all() and np.isnan(rows["rel_l2_position"][:2].astype(float)).all()
    parts, olds = now.split([40, 9]), before.split([40, 9])
    plain = [channel for channel in range(WIDTH) if channel not in (2, 9)]
    for row, part, old in zip(rows[2:], parts, olds, strict=True):
        assert row["norm"] == pytest.approx(float(part.norm()), rel=1e-6)
        assert row["energy_first"] == pytest.approx(float(part[0].norm() / part.norm()) ** 2, rel=1e-5)
        assert 1 > row["energy_massive"] > float(part[:, [2, 9]].norm() / part.norm()) ** 2 > 0.9
        change = float((part - old).norm() / part.norm())
        assert row["rel_l2"] == pytest.approx(change, rel=0.1)
        assert 1 - row["cosine"] == pytest.approx(change**2 / 2, rel=0.2)
        without = float((part - old)[:, plain].norm() / part[:, plain].norm())
        assert row["rel_l2_no_massive"] == pytest.approx(without, rel=0.2) and without > 3 * change
    first = rows[2]
    assert np.nanargmax(first["rel_l2_position"].astype(float)) == band_of(torch.tensor([5]))[0] == 3, (
        "positions 4 to 7"
    )
    assert np.isnan(first["rel_l2_position"][7:].astype(float)).all(), "from position 64 on there are none"
    assert first["rel_l2_source"] > 1.2 * first["rel_l2_target"]


def test_any_two_visits_can_be_compared(tmp_path: Path) -> None:
    before, now = two_visits()
    rows = record(tmp_path / "rank_00000.h5", [before, now, before * 2])
    values = rows["values"].astype(np.float64)
    assert np.allclose(values[0], values[4], atol=1e-3), "the same direction, and a norm of twice the size"
    assert rows["norm"][4] == pytest.approx(2 * rows["norm"][0])
    cosine = values[1] @ values[3] / np.linalg.norm(values[1]) / np.linalg.norm(values[3])
    true = float(torch.cosine_similarity(before[40:].double().flatten(), now[40:].double().flatten(), dim=0))
    assert 1 - cosine == pytest.approx(1 - true, rel=0.3, abs=0)


def test_first_position_and_massive_channels_are_left_out_where_it_is_said() -> None:
    generator = torch.Generator().manual_seed(3)
    now, before = torch.randn(12, 20, generator=generator), torch.randn(12, 20, generator=generator)
    lengths = torch.tensor([5, 7])
    found = drift_measures(now, before, lengths, torch.tensor([2, -1]), massive=4)
    chosen = {"": (0, 20), "_no_first": (1, 20), "_no_massive": (0, 16), "_neither": (1, 16)}
    for name, (first, channels) in chosen.items():
        for index, start in enumerate((0, 5)):
            stop = start + int(lengths[index])
            one, other = (rows[start + first : stop, :channels].double() for rows in (now, before))
            cosine = float((one * other).sum() / one.norm() / other.norm())
            assert float(found[f"cosine{name}"][index]) == pytest.approx(cosine)
            assert float(found[f"rel_l2{name}"][index]) == pytest.approx(float((one - other).norm() / one.norm()))
    assert float(found["rel_l2_source"][0]) == pytest.approx(float((now - before)[:2].norm() / now[:2].norm()))
    assert float(found["rel_l2_target"][0]) == pytest.approx(float((now - before)[2:5].norm() / now[2:5].norm()))
    assert torch.isnan(found["rel_l2_source"][1]) and torch.isnan(found["rel_l2_target"][1]), "unknown"
    assert band_of(torch.tensor([0, 1, 2, 3, 4, 7, 8, 1023, 1024, 9999])).tolist() == [0, 1, 2, 2, 3, 3, 4, 10, 11, 11]
    assert found["rel_l2_position"].shape == (2, BANDS)


def test_it_goes_on_from_its_state_as_if_nothing_had_been(tmp_path: Path) -> None:
    visits = [*two_visits(), two_visits()[0] + 1]
    whole = record(tmp_path / "whole.h5", visits)
    for step in (1, 2):
        assert record(tmp_path / f"{step}.h5", visits, resumed_after=step).tobytes() == whole.tobytes()
    assert not np.isnan(whole["cosine"][2:]).any()


def test_what_is_sent_again_in_one_step_is_one_visit(tmp_path: Path) -> None:
    before, now = two_visits()
    with RankLog(tmp_path / "rank_00000.h5", rank=0, role="client", config="", sketch=K) as log:
        sketches = SketchLog(log, CountSketch(K, WIDTH, 40), WIDTH)
        for step, visit in ((0, before), (5, now), (5, now)):
            sketches.record(step, 0, 0, 0, VISIT, visit)
    rows = read(tmp_path / "rank_00000.h5", "sketch")
    assert rows["step"].tolist() == [0, 0, 5, 5] and (rows["rel_l2"][2:] > 0).all()
    assert (rows["target_start"] == -1).all() and (rows["shared"] == -1).all()


def test_after_it_forgets_nothing_is_compared_with_what_was_before(tmp_path: Path) -> None:
    """As where the cut has moved: other blocks have other massive channels, too."""
    before, now = two_visits()
    with RankLog(tmp_path / "rank_00000.h5", rank=0, role="client", config="", sketch=K) as log:
        sketches = SketchLog(log, CountSketch(K, WIDTH, 40), WIDTH)
        sketches.record(0, 0, 0, 0, VISIT, before)
        sketches.forget()
        for step, visit in ((1, now.roll(7, 1)), (2, now.roll(7, 1))):
            sketches.record(step, step, 0, 0, VISIT, visit)
    rows = read(tmp_path / "rank_00000.h5", "sketch")
    assert np.isnan(rows["cosine"][:4]).all() and rows["cosine"][4:].tolist() == [1, 1]
    assert (rows["energy_massive"] > 0.9).all()


def test_values_that_have_no_direction_are_logged_all_the_same(tmp_path: Path) -> None:
    strange = two_visits()[0].clone()
    strange[:40], strange[45] = 0, torch.inf
    rows = record(tmp_path / "rank_00000.h5", [strange, strange])
    assert rows["norm"][0] == 0 and not rows["values"][0].any() and np.isnan(rows["cosine"][2])
    assert rows["norm"][1] == np.inf


def test_a_row_takes_113_bytes_and_two_a_value() -> None:
    assert row_dtype("sketch", 256).itemsize == 113 + 512
    assert MASSIVE == 4, "as the table's columns say"


def test_text_facts() -> None:
    tokens = [[5, 6, 7, 8], [5, 6, 9, 9, 9], [1, 2]]
    shard = [Sample(10 * n, np.array(row, np.int32), len(row) - 1) for n, row in enumerate(tokens)]
    facts = facts_of_shard(shard)
    assert [facts(sample.id) for sample in shard] == [(1, 0), (1, 2), (1, 0)]
    cache = LabelCache(100)
    cache.load({"samples": torch.tensor([4]), "counts": torch.tensor([3]), "targets": torch.tensor([1, 2, 3])})
    assert facts_of_labels(cache)(4) == (3, -1)
