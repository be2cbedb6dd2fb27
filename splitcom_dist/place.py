"""Who am I: this process among the ranks of its launch, from the environment of whatever started it."""

from collections.abc import Mapping
from dataclasses import dataclass

from splitcom_dist.comm import mpi_world
from splitcom_dist.errors import UserError

# Launcher -> variables with rank, world size, rank on this host, ranks on this host. The first that fits is believed:
# torchrun may have been started by srun, and the ranks of mpirun inherit the Slurm variables of mpirun's own daemons.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "mpirun (Open MPI)": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec (PMI)": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_GTIDS"),
}
# Signs that some other MPI started this process; how many ranks there are, only the MPI library knows.
MPI_SIGNS = ("PMIX_RANK", "PMI_FD", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "ALPS_APP_PE", "JSM_NAMESPACE_RANK")


@dataclass(frozen=True)
class Place:
    """This process among the ranks of its launch.

    Where the launcher does not tell the local rank, all ranks are taken to be on one host.
    """

    rank: int
    world_size: int
    launcher: str
    local_rank: int  # among the ranks on this host: the index of the device that is this rank's
    local_world_size: int
    told_by: str = ""  # the variables it was read from


def find_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place, or None when no launcher gave it peers. Raises UserError for variables without sense.

    A lone process is what `srun --pty bash` or `mpirun -n 1` starts, too: only torchrun's is meant as a rank.
    """
    place = recognise(environment)
    return place if place is not None and (place.world_size > 1 or place.launcher == "torchrun") else None


def recognise(environment: Mapping[str, str]) -> Place | None:
    """The place of a process that any launcher started, be it the only one; else None. Raises UserError."""
    step = _is_slurm_task(environment)
    for launcher, names in LAUNCHERS.items():
        mine = step if launcher == "srun" else names[0] in environment and names[1] in environment
        if mine and not (launcher == "mpiexec (PMI)" and step):  # `srun --mpi=pmi2` sets PMI's variables too
            return _read(launcher, environment)
    signs = [sign for sign in MPI_SIGNS if sign in environment]
    return _ask_mpi(signs[0]) if signs else None


def _read(launcher: str, environment: Mapping[str, str]) -> Place:
    names = LAUNCHERS[launcher]
    if launcher == "srun" and "SLURM_GTIDS" in environment:  # a list: the ranks on this node
        environment = {**environment, "SLURM_GTIDS": str(1 + environment["SLURM_GTIDS"].count(","))}
    values = {name: _number(name, environment[name]) for name in names if name in environment}
    rank, size = values[names[0]], values[names[1]]
    if rank >= size:
        raise UserError(f"{names[0]}={rank} does not fit {names[1]}={size}: ranks are 0 to {size - 1}")
    return Place(rank, size, launcher, values.get(names[2], rank), values.get(names[3], size), ", ".join(values))


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} is not a number: unset it, or start the ranks by a script in launch/")
    return int(text)


def _is_slurm_task(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as a task.

    A batch script has rank 0 and the job's task count, but no step; salloc's shell has a step of one task and the
    job's task count; a batch script that was submitted from inside a step has that step's variables and its own job's.
    In a task of srun's both counts are those of the step, over all components of a heterogeneous job. The daemons
    of mpirun are such tasks, and what they start inherits their variables.
    """
    get = environment.get
    if get("SLURM_STEP_ID") is None or get("SLURM_PROCID") is None or get("SLURM_STEP_NUM_TASKS") is None:
        return False
    if get("SLURM_STEP_NUM_TASKS") != get("SLURM_NTASKS"):
        return False
    if "MPI_LOCALRANKID" in environment or not get("PMIX_NAMESPACE", "slurm").startswith("slurm"):
        return False
    pmi = get("PMI_RANK"), get("PMI_SIZE")
    return None in pmi or pmi == (get("SLURM_PROCID"), get("SLURM_STEP_NUM_TASKS"))


def _ask_mpi(sign: str) -> Place:
    try:
        world = mpi_world.join()
    except UserError as error:
        raise UserError(f"MPI seems to have started this process ({sign} is set): {error}") from None
    return Place(*world.coordinates[:2], "MPI", *world.coordinates[2:], told_by=f"{sign}, mpi4py")
