"""The redundancy study finds what was put into logged sketches: how alike epochs are, directions, positions, cuts."""

from pathlib import Path

import numpy as np
import pytest
from drifting_run import write_drift

from splitcom_dist.analysis import sketches
from splitcom_dist.analysis.directions import along_epochs, between, distances, independent, spectrum
from splitcom_dist.analysis.logs import open_run
from splitcom_dist.analysis.redundancy import BANDS, Redundancy, redundancy_of
from splitcom_dist.analysis.report import Figure
from splitcom_dist.analysis.sections import redundancy as section
from splitcom_dist.analysis.sections.redundancy_who import by_cut

SAMPLES, EPOCHS, K = 60, 4, 128


def drift(common: float, own: float) -> np.ndarray:
    """Samples that move along a line, each along a mix of a direction common to all and one of its own."""
    random = np.random.default_rng(3)
    start, own_way = random.standard_normal((2, SAMPLES, 1, K))
    common_way = random.standard_normal((1, 1, K))
    moved: np.ndarray = start + np.arange(EPOCHS)[None, :, None] * (common * common_way + own * own_way)
    return moved


def study(tmp_path: Path, values: np.ndarray) -> Redundancy:
    found = redundancy_of(open_run(write_drift(tmp_path / "run", values)))
    assert found is not None
    return found


def test_any_two_epochs_are_as_far_apart_as_they_were_made(tmp_path: Path) -> None:
    values = drift(0.1, 0.1)
    visits = study(tmp_path, values).sketches.of(0)
    mean, high = distances(visits)
    for one in range(EPOCHS):
        for other in range(EPOCHS):
            pairs = (values[:, one] * values[:, other]).sum(1)
            true = 1 - pairs / np.linalg.norm(values[:, one], axis=1) / np.linalg.norm(values[:, other], axis=1)
            if one != other:
                assert mean[one, other] == pytest.approx(true.mean(), rel=0.01)
                assert high[one, other] == pytest.approx(np.quantile(true, 0.9), rel=0.01)
    assert np.isnan(mean.diagonal()).all()


@pytest.mark.parametrize(("common", "own"), [(0.2, 0.0), (0.0, 0.2)])
def test_a_common_direction_is_told_from_independent_ones(common: float, own: float, tmp_path: Path) -> None:
    visits = study(tmp_path, drift(common, own)).sketches.of(0)
    changes = between(visits, 2)
    found, chance = spectrum(changes), spectrum(independent(changes))
    assert found is not None and chance is not None
    if common:
        assert found.effective_rank < 1.5 and found.held(1) > 0.99
    else:
        assert found.effective_rank == pytest.approx(chance.effective_rank, rel=0.1)
        assert found.held(1) < 0.1
    assert chance.effective_rank > 30
    assert along_epochs(visits)[0] > 0.99, "each moves along a line"


def test_wandering_is_no_line(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((SAMPLES, 1, K)) + 0.1 * np.cumsum(
        np.random.default_rng(1).standard_normal((SAMPLES, EPOCHS, K)), axis=1
    )
    held = along_epochs(study(tmp_path, values).sketches.of(0))
    assert held[0] < 0.6 and held[-1] == pytest.approx(1) and len(held) == EPOCHS - 1


def test_nothing_changed_has_no_directions() -> None:
    assert spectrum(np.zeros((5, 8))) is None
    assert spectrum(np.full((5, 8), np.nan)) is None


def test_tables_say_what_was_logged(tmp_path: Path) -> None:
    found = study(tmp_path, drift(0.1, 0.1))
    for name, level in (("rel_l2", 0.1), ("cosine", 0.01), ("rel_l2_neither", 0.1), ("cosine_no_first", 0.9)):
        assert found.parts[name].quantiles([0.5], link=0)[0] == pytest.approx(level, rel=0.02), name
    assert found.sides["source"].quantiles([0.5], link=0)[0] == pytest.approx(0.2, rel=0.02)
    assert found.bands[BANDS[4]].quantiles([0.5], link=0)[0] == pytest.approx(0.1, rel=0.02)
    assert np.isnan(found.bands[BANDS[5]].quantiles([0.5], link=0)[0])
    assert found.energy()["first"].tolist() == [0.5] * EPOCHS and found.energy()["massive"].tolist() == [0.25] * EPOCHS
    prefix = section.prefixes(found)
    assert [list(row) for row in prefix.rows[:1]] == [
        ["0", 30, 1, 300, 4, pytest.approx(4 / 3), pytest.approx(300 / 296)]
    ]
    assert list(prefix.rows[-1])[:5] == ["all", 60, 2, 600, 8]


def test_of_more_samples_than_memory_holds_some_are_followed_at_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = drift(0.1, 0.1)
    write_drift(tmp_path / "run", values)
    monkeypatch.setattr(sketches, "BYTES", 20 * 2 * K * EPOCHS)
    monkeypatch.setattr("splitcom_dist.analysis.redundancy.CHUNK_BYTES", 7 * (113 + 2 * K))
    found = redundancy_of(open_run(tmp_path / "run"))
    assert found is not None
    visits = found.sketches.of(0)
    assert visits.values.shape == (20, EPOCHS, K) and visits.chosen
    assert np.isfinite(visits.values).all()


def test_every_figure_can_be_drawn_and_cuts_are_compared(tmp_path: Path) -> None:
    from matplotlib.figure import Figure as Canvas

    runs = [write_drift(tmp_path / f"cut{cut}", drift(0.1, 0.1), cut=cut) for cut in (1, 3)]
    found = [redundancy for run in runs if (redundancy := redundancy_of(open_run(run))) is not None]
    assert by_cut(found[:1]) is None
    figure = by_cut(found)
    assert figure is not None and figure.data is not None
    assert {(row[0], row[3]) for row in figure.data.rows} == {("cut1", 1), ("cut3", 3)}
    items = [*section.items_of(found[0]), figure]
    drawn = [item for item in items if isinstance(item, Figure)]
    assert len(drawn) == 6 and len({item.name for item in items}) == len(items)
    for item in drawn:
        canvas = Canvas(figsize=item.size)
        item.draw(canvas)
        assert canvas.axes and item.data is not None and item.data.rows
        assert all(len(row) == len(item.data.columns) for row in item.data.rows)


def test_a_run_without_sketches_has_none(tmp_path: Path) -> None:
    assert redundancy_of(open_run(write_drift(tmp_path / "run", np.ones((0, 3, 8))))) is None


def test_one_epoch_has_nothing_to_compare(tmp_path: Path) -> None:
    found = study(tmp_path, drift(0.1, 0.1)[:, :1])
    assert [item.name for item in section.items_of(found)] == ["energies-run", "prefixes-run"]
