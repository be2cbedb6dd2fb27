"""Fixtures for tests that name this module in `pytest_plugins`: one logged run, its study, and a report."""

from pathlib import Path

import pytest
from logged_run import write_run

from splitcom_dist.analysis.logs import open_run
from splitcom_dist.analysis.study import Study, study_of
from splitcom_dist.cli import main


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("logged") / "one")


@pytest.fixture(scope="session")
def study(root: Path) -> Study:
    return study_of(open_run(root))


@pytest.fixture(scope="session")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run and another that has not finished and is configured differently: report.html and figures/."""
    out = tmp_path_factory.mktemp("report")
    other = write_run(out / "two", finished=False, seed=1, settings=("train.lr=0.5",))
    assert main(["analyze", str(root), str(other), "--out", str(out)]) == 0
    return out
