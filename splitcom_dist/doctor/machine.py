"""The host of a rank, and the folder it works in."""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import torch


@dataclass(frozen=True)
class Host:
    name: str  # as Slurm calls the node, or as it calls itself
    machine: str  # as it calls itself: several nodes of a trial cluster may be one machine
    addresses: list[str]  # what its own name resolves to; none if it does not
    cores: int  # that this rank may use
    all_cores: int
    memory_bytes: int
    available_bytes: int
    devices: list[str]


@dataclass(frozen=True)
class Folder:
    path: str
    file_system: str
    writable: bool
    free_bytes: int
    no_lock: str  # why HDF5 cannot lock files here; empty if it can


def see_host(environment: Mapping[str, str]) -> Host:
    name = socket.gethostname()
    try:
        addresses = socket.gethostbyname_ex(name)[2]
    except OSError:
        addresses = []
    pages = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
    memory, free = (count * os.sysconf("SC_PAGE_SIZE") for count in pages)
    return Host(
        environment.get("SLURMD_NODENAME", name),
        name,
        addresses,
        len(os.sched_getaffinity(0)),
        os.cpu_count() or 1,
        memory,
        max(free, _available()),
        [_device(index) for index in range(torch.cuda.device_count())],
    )


def _available() -> int:
    """Bytes that programs can still take, caches included; 0 where the kernel does not tell."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _device(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def see_folder(path: Path) -> Folder:
    writable, reason = True, ""
    try:
        with tempfile.TemporaryDirectory(prefix=".splitcom-doctor-", dir=path) as folder:
            reason = _why_not_locked(Path(folder) / "probe.h5")
    except OSError:
        writable = False
    return Folder(str(path), _file_system(path), writable, shutil.disk_usage(path).free, reason)


def _why_not_locked(path: Path) -> str:
    try:
        with h5py.File(path, "w", locking=True), path.open("r+b") as second:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""  # as it should be: HDF5 holds the lock
    except OSError as error:
        return str(error).splitlines()[0]
    return "a lock does not keep others out"


def _file_system(path: Path) -> str:
    """The type of the file system, as /proc/mounts has it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(mount, kind) for mount, kind in mounts if path.is_relative_to(mount)]
    return max(above, key=lambda found: len(found[0]))[1] if above else "unknown"
