"""What one rank sees: its place, host, folder and software; travels to rank 0 as JSON."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from splitcom_dist.comm import mpi_world
from splitcom_dist.comm.channels import backends
from splitcom_dist.doctor.machine import Folder, Host, see_folder, see_host
from splitcom_dist.errors import UserError
from splitcom_dist.place import Place

PACKAGES = ("splitcom-dist", "torch", "transformers", "tokenizers", "peft", "datasets", "numpy", "h5py", "safetensors")
NETWORK = ("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS")
SLURM = ("JOB_ID", "STEP_ID", "JOB_PARTITION", "JOB_NODELIST", "STEP_NODELIST", "NTASKS", "HET_SIZE", "RESTART_COUNT")


@dataclass(frozen=True)
class Sight:
    place: Place | None  # None: no launcher
    host: Host
    folder: Folder
    versions: dict[str, str]
    backends: list[str]  # of torch
    mpi: str  # mpi4py and the library it found, or why not
    slurm: str  # version and commands; empty where it is not installed
    variables: dict[str, str]  # those that steer the network, and the Slurm job's

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def from_json(text: str) -> Sight:
    """The Sight that `to_json` wrote."""
    values = json.loads(text)
    values["place"] = values["place"] and Place(**values["place"])
    return Sight(**values | {"host": Host(**values["host"]), "folder": Folder(**values["folder"])})


def look(place: Place | None, environment: Mapping[str, str]) -> Sight:
    """What this process sees, without any other."""
    names = [*NETWORK, *(f"SLURM_{name}" for name in SLURM)]
    return Sight(
        place,
        see_host(environment),
        see_folder(Path.cwd()),
        _versions(),
        backends(),
        _mpi(),
        _slurm(),
        {name: environment[name] for name in names if name in environment},
    )


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _mpi() -> str:
    try:
        library = str(mpi_world.load().Get_library_version())
    except UserError as error:
        return str(error)
    name = library.splitlines()[0].split(", package")[0].rstrip("\0 ")
    return f"mpi4py {importlib.metadata.version('mpi4py')}, {' '.join(name.split())}"


def _slurm() -> str:
    if shutil.which("sinfo") is None:
        return ""
    try:
        shown = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "sinfo does not answer"
    if shown.returncode:
        return "installed, but not set up: " + (shown.stderr.strip().splitlines() or ["sinfo fails"])[-1]
    there = [command for command in ("sbatch", "srun", "scontrol") if shutil.which(command)]
    return f"{shown.stdout.strip()}, with {', '.join(there) or 'no sbatch'}"
