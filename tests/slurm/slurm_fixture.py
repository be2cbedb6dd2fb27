"""The fixture `slurm`, for tests that name this module in `pytest_plugins`: one cluster for all of a session."""

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """See running_cluster; not made before the first test that asks for it."""
    with running_cluster() as cluster:
        yield cluster
