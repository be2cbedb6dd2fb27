"""Who am I: rank and world size, from the environment of whatever launched this process."""

from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHERS = {  # launcher -> variables that hold rank and world size
    "torchrun": ("RANK", "WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS"),
    "mpirun (Open MPI)": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpirun (PMI)": ("PMI_RANK", "PMI_SIZE"),
}


@dataclass(frozen=True)
class Place:
    """This process among the ranks of its launch."""

    rank: int
    world_size: int
    launcher: str


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Rank and world size as the launcher says, or None when no launcher started this process."""
    for launcher, (rank, size) in LAUNCHERS.items():
        if rank in environment and size in environment:
            place = Place(int(environment[rank]), int(environment[size]), launcher)
            if place.world_size > 1 or launcher == "torchrun":
                return place
    return None
