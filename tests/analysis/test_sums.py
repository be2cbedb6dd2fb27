"""Sums are exact, quantiles are right to 1.2 %, and neither depends on the chunks."""

import numpy as np
import pandas
import pytest

from splitcom_dist.analysis.groups import Histograms, Sums, bin_of, middle

GENERATOR = np.random.default_rng(0)
COUNT = 5000
ROWS = {
    "link": GENERATOR.integers(0, 4, COUNT),
    "epoch": GENERATOR.integers(-1, 5, COUNT),
    "client": GENERATOR.integers(-1, 90_000, COUNT),
    "wire": GENERATOR.integers(0, 1 << 40, COUNT),
    "change": 10 ** GENERATOR.uniform(-7, 3, COUNT),
}


def parts(size: int) -> list[dict[str, np.ndarray]]:
    return [{name: values[start : start + size] for name, values in ROWS.items()} for start in range(0, COUNT, size)]


@pytest.mark.parametrize("size", [37, COUNT])
def test_sums_are_those_of_pandas(size: int) -> None:
    sums = Sums(("link", "epoch", "client"), ("wire",))
    for part in parts(size):
        sums.add(part)
    expected = pandas.DataFrame(ROWS).groupby(["link", "epoch", "client"])["wire"].sum().reset_index()
    found = sums.table()
    for name in ("link", "epoch", "client", "wire"):
        assert found[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize("size", [37, COUNT])
def test_quantiles_are_right_to_a_hundredth(size: int) -> None:
    histograms = Histograms(("link", "epoch"))
    for part in parts(size):
        histograms.add(part, part["change"])
    assert histograms.groups("link") == [(0,), (1,), (2,), (3,)]
    for link, epoch in histograms.groups("link", "epoch"):
        values = ROWS["change"][(ROWS["link"] == link) & (ROWS["epoch"] == epoch)]
        levels = (0.1, 0.5, 0.9, 1.0)
        expected = np.quantile(values, levels, method="inverted_cdf")
        assert histograms.quantiles(levels, link=link, epoch=epoch) == pytest.approx(expected.tolist(), rel=0.012)
        assert histograms.of(link=link, epoch=epoch)[1].sum() == len(values)
    assert np.isnan(histograms.quantiles([0.5], link=0, epoch=77)).all()


def test_what_has_not_changed_counts_as_zero_and_what_is_not_finite_does_not_count() -> None:
    histograms = Histograms(("link",))
    histograms.add({"link": np.zeros(5, np.int8)}, np.array([0, 0, 0, np.nan, np.inf]))
    assert histograms.quantiles([0.5], link=0) == [0.0] and histograms.of(link=0)[1].tolist() == [3]
    assert middle(bin_of(np.array([1e9])))[0] >= 1e4, "what is too large counts as the end"
