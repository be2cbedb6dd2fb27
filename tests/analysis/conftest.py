"""One logged run for all tests of the analysis that only read it."""

from pathlib import Path

import pytest
from logged_run import write_run

from splitcom_dist.analysis.logs import open_run
from splitcom_dist.analysis.study import Study, study_of


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("logged") / "one")


@pytest.fixture(scope="session")
def study(root: Path) -> Study:
    return study_of(open_run(root))
