"""Every launcher's environment is recognised, and none that only looks like one."""

import pytest

from splitcom_dist.comm import mpi_world
from splitcom_dist.errors import UserError
from splitcom_dist.place import Place, find_place, recognise

# As seen under Slurm 22.05, Open MPI 4.1 and MPICH 4.0's Hydra.
TASK = {
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_GTIDS": "0,1",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
BATCH = {"SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GTIDS": "0", "SLURM_NTASKS": "4"}
DAEMON = TASK | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "PMIX_RANK": "2",
    "PMIX_NAMESPACE": "607911937",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}

CASES: dict[str, tuple[dict[str, str], tuple[int, int, str, int, int] | None]] = {
    "no launcher": ({}, None),
    "torchrun": (TORCHRUN, (2, 5, "torchrun", 1, 3)),
    "torchrun, without local rank": ({"RANK": "2", "WORLD_SIZE": "5"}, (2, 5, "torchrun", 2, 5)),
    "torchrun started by srun": (TASK | TORCHRUN, (2, 5, "torchrun", 1, 3)),
    "torchrun inside mpirun": (OPEN_MPI | TORCHRUN, (2, 5, "torchrun", 1, 3)),
    "Open MPI": (OPEN_MPI, (2, 3, "mpirun (Open MPI)", 0, 1)),
    "Open MPI in a batch script, where its daemons are srun's tasks": (
        DAEMON | OPEN_MPI,
        (2, 3, "mpirun (Open MPI)", 0, 1),
    ),
    "MPICH": (HYDRA, (1, 4, "mpiexec (PMI)", 1, 2)),
    "MPICH in a batch script, where its daemon's step looks alike": (
        TASK | HYDRA | {"PMI_SIZE": "3"},
        (1, 3, "mpiexec (PMI)", 1, 2),
    ),
    "PMI without local ranks": ({"PMI_RANK": "1", "PMI_SIZE": "4"}, (1, 4, "mpiexec (PMI)", 1, 4)),
    "srun": (TASK, (1, 3, "srun", 1, 2)),
    "srun --mpi=pmi2": (TASK | {"PMI_RANK": "1", "PMI_SIZE": "3", "PMI_FD": "13"}, (1, 3, "srun", 1, 2)),
    "srun --mpi=pmix": (TASK | {"PMIX_RANK": "1", "PMIX_NAMESPACE": "slurm.pmix.5.0"}, (1, 3, "srun", 1, 2)),
    "srun over two components of a heterogeneous job": (
        TASK | {"SLURM_HET_SIZE": "2", "SLURM_PROCID": "2", "SLURM_GTIDS": "1,2"},
        (2, 3, "srun", 1, 2),
    ),
    "a batch script, before any srun": (BATCH, None),
    "a batch script that was submitted from inside a step": (BATCH | TASK | {"SLURM_NTASKS": "4"}, None),
    "a shell of salloc's, no step": ({"SLURM_JOB_ID": "9", "SLURM_NTASKS": "3"}, None),
    "a shell of salloc's in the interactive step": (
        TASK | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        None,
    ),
}


@pytest.mark.parametrize(("environment", "expected"), CASES.values(), ids=CASES.keys())
def test_every_launchers_environment(
    environment: dict[str, str], expected: tuple[int, int, str, int, int] | None
) -> None:
    place = find_place(environment)
    seen = place and (place.rank, place.world_size, place.launcher, place.local_rank, place.local_world_size)
    assert seen == expected


ALONE = {
    "srun --pty bash": {**TASK, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
    "mpirun -n 1": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"},
    "mpiexec -n 1": {"PMI_RANK": "0", "PMI_SIZE": "1"},
}


@pytest.mark.parametrize("environment", ALONE.values(), ids=ALONE.keys())
def test_a_lone_process_starts_its_own_ranks_but_is_recognised(environment: dict[str, str]) -> None:
    assert find_place(environment) is None
    place = recognise(environment)
    assert place is not None and (place.rank, place.world_size) == (0, 1)


def test_torchrun_with_one_process_is_a_rank() -> None:
    place = find_place({"RANK": "0", "WORLD_SIZE": "1"})
    assert place is not None and place.world_size == 1


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"RANK": "two", "WORLD_SIZE": "3"}, ["RANK='two'", "not a number"]),
        ({"RANK": "3", "WORLD_SIZE": "3"}, ["RANK=3", "WORLD_SIZE=3", "0 to 2"]),
        ({"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "-1"}, ["LOCAL_RANK='-1'"]),
    ],
)
def test_variables_without_sense_are_named(environment: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find_place(environment)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_mpi_is_asked_only_where_nothing_else_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def join() -> mpi_world.MpiWorld:
        asked.append(True)
        return mpi_world.MpiWorld(None, (1, 4, 1, 2))  # type: ignore[arg-type]

    monkeypatch.setattr(mpi_world, "join", join)
    for environment, _ in CASES.values():
        find_place(environment)
    assert not asked
    assert find_place({"PMIX_RANK": "1"}) == Place(1, 4, "MPI", 1, 2, told_by="PMIX_RANK, mpi4py")


def test_a_launch_that_only_mpi_knows_is_no_reason_to_start_ranks_when_mpi4py_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def join() -> mpi_world.MpiWorld:
        raise UserError("mpi4py is not installed: pip install 'splitcom-dist[mpi]'")

    monkeypatch.setattr(mpi_world, "join", join)
    with pytest.raises(UserError, match=r"PMIX_RANK is set.*pip install"):
        find_place({"PMIX_RANK": "0"})
