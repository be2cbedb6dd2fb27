"""What srun's MPI plugins give a rank: MPI itself with pmix, and with pmi2 no more than Slurm's own variables."""

import importlib.util
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster

pytest_plugins = ("slurm_fixture",)

SUM = """
from mpi4py import MPI
print(MPI.COMM_WORLD.rank, MPI.COMM_WORLD.allreduce(1), flush=True)
"""
PLACE = """
import os
from splitcom_dist.place import find_place
place = find_place(os.environ)
print(place.rank, place.world_size, flush=True)
"""


def ranks_of(slurm: Cluster, plugin: str, program: str) -> list[str]:
    """The lines that three ranks on two nodes print."""
    options = [f"--mpi={plugin}", "--nodes=2", "--ntasks=3", "--time=1"]
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return sorted(slurm.run("srun", *options, sys.executable, "-c", program, **as_root).splitlines())


@pytest.mark.parametrize("plugin", ["none", "pmi2"])
def test_every_rank_knows_its_place(slurm: Cluster, plugin: str) -> None:
    assert ranks_of(slurm, plugin, PLACE) == ["0 3", "1 3", "2 3"]


@pytest.mark.skipif(not importlib.util.find_spec("mpi4py"), reason="needs mpi4py")
@pytest.mark.skipif(
    not list(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so")),
    reason="Slurm loads PMIx by a name that only Debian's libpmix-dev has",
)
def test_mpi_starts_over_pmix(slurm: Cluster) -> None:
    assert ranks_of(slurm, "pmix", SUM) == ["0 3", "1 3", "2 3"]
