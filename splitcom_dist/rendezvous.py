"""Where the ranks meet: MASTER_ADDR and MASTER_PORT, or what Slurm or MPI let every rank find out by itself.

An exported MASTER_ADDR or MASTER_PORT always wins, each for itself.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from splitcom_dist.comm import mpi_world
from splitcom_dist.errors import UserError
from splitcom_dist.hostlist import expand
from splitcom_dist.place import Place

FIRST_PORT, PORTS = 20000, 10000  # under Slurm: below the ports that Linux gives away, and 29400, torchrun's own
REACH = 20  # timeouts for which a lost rank tries to reach the others
STEPS = 16  # of one job that can run side by side without meeting the next job's
EXPORT = "export MASTER_ADDR and MASTER_PORT to every rank"


@dataclass
class Rendezvous:
    """The address of the store that rank 0 keeps; on rank 0 perhaps with a socket that is bound to it already."""

    address: str
    port: int
    listener: socket.socket | None = None

    def reach_store(self, place: Place, timeout_seconds: float) -> dist.TCPStore:
        """`open_store` for a rank that the others have lost: its network may be down still."""
        deadline = time.monotonic() + REACH * timeout_seconds
        while True:
            try:
                return self.open_store(place, timeout_seconds)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def open_store(self, place: Place, timeout_seconds: float) -> dist.TCPStore:
        """Keep the store, or connect to it. Raises RuntimeError if that fails within the timeout."""
        # torchrun's agent and our own launcher keep the store for their ranks; else rank 0 does.
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return dist.TCPStore(
            self.address,
            self.port,
            is_master=place.rank == 0 and not hosted,
            timeout=timedelta(seconds=timeout_seconds),
            wait_for_workers=False,
            master_listen_fd=self.listener.detach() if self.listener else None,
        )


def find_rendezvous(place: Place, environment: Mapping[str, str], timeout_seconds: float) -> Rendezvous:
    """Where this launch meets. Raises UserError where nothing tells."""
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT") or None
    if port and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"MASTER_PORT={port!r} is not a port: export a free one, 1 to 65535")
    if address and port:
        return Rendezvous(address, int(port))
    if place.launcher == "srun":
        return Rendezvous(address or slurm_address(place, environment), int(port or slurm_port(environment)))
    if place.launcher.startswith(("mpi", "MPI")):
        return _over_mpi(place, address, port, timeout_seconds)
    missing = " and ".join(name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name))
    raise UserError(f"{place.launcher} gave no {missing}: export it (see launch/)")


def slurm_port(environment: Mapping[str, str]) -> int:
    """A port of 20000 to 29999 that all ranks of a step derive alike.

    Two jobs of one host get the same only if their ids are a multiple of 625 apart, or one runs over 16 steps at once.
    The components of a heterogeneous job see one job id in a common step, the leader's.
    """
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return FIRST_PORT + (job * STEPS + step) % PORTS


def slurm_address(place: Place, environment: Mapping[str, str]) -> str:
    """The host of rank 0: the first of the step's. Raises UserError if rank 0 finds itself elsewhere."""
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"  # needs no name service
    name = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in environment else "SLURM_JOB_NODELIST"
    try:
        host, *_ = expand(environment.get(name, ""))
    except ValueError as error:
        raise UserError(f"{name}: {error}; {EXPORT}") from None
    if place.rank == 0 and environment.get("SLURMD_NODENAME", host) != host:
        mine = environment["SLURMD_NODENAME"]
        raise UserError(f"rank 0 is on {mine}, not on {host}, the first host of {name}={environment[name]}; {EXPORT}")
    return _resolvable(host)


def _resolvable(host: str) -> str:
    """The host's name, or, where no name service knows it, its address as Slurm has it."""
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        if shutil.which("scontrol") is None:
            raise UserError(f"the host name {host}, from Slurm, cannot be resolved here; {EXPORT}") from None
    command = ["scontrol", "show", "node", host]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except subprocess.TimeoutExpired:
        shown = ""
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    if found is None:
        raise UserError(f"neither name service nor scontrol knows the address of {host}; {EXPORT}")
    return found.group(1)


def _over_mpi(place: Place, address: str | None, port: str | None, timeout_seconds: float) -> Rendezvous:
    try:
        world = mpi_world.join(timeout_seconds)
        world.check(place.rank, place.world_size)
        listener, mine = None, ""
        if place.rank == 0:
            listener = socket.create_server(("", int(port or 0)))  # bound before anyone hears of it: no race
            host = address or ("127.0.0.1" if place.local_world_size == place.world_size else own_address())
            mine = f"{host} {listener.getsockname()[1]}"
        heard, number = world.broadcast(mine, timeout_seconds).split()
    except OSError as error:
        raise UserError(f"MASTER_PORT={port} cannot be opened ({error.strerror}): export a free one") from None
    except UserError as error:
        raise UserError(f"{place.launcher} gave no MASTER_ADDR and MASTER_PORT; {error}; or {EXPORT}") from None
    return Rendezvous(heard, int(number), listener)


def own_address() -> str:
    """This host's address for others: what its name resolves to, or, if that is itself, where packets would leave."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    if not address.startswith("127."):
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table
            return str(probe.getsockname()[0])
        except OSError:
            return address
