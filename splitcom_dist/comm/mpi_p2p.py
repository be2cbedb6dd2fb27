"""Point-to-point over MPI: one communicator of our own, a tag an edge, messages are uint8 vectors.

Only packets of the client-server edges travel here. Averaging, the servers' sums of gradients and their adapters are
collectives and transfers of Gloo groups (reduce.py, gradients.py) and stay there, as does control. Nothing blocks inside MPI once the job is up: requests are
tested, with naps in between, until they are done or the timeout is over, so that a peer that is lost or silent becomes
an error here. MPI itself gives no sign of a lost process; mpirun ends the job, unless told --enable-recovery.
"""

import importlib.util
import threading
import time
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitcom_dist.errors import UserError, WireError
from splitcom_dist.place import Place

if TYPE_CHECKING:
    from mpi4py import MPI

STARTED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")  # one of them: Open MPI, MPICH, srun --mpi=pmix
FIRST_NAP, LONGEST_NAP = 10e-6, 1e-3  # seconds between two tests: short for what is due, no core taken for long waits


def check_launcher(place: Place, environment: Mapping[str, str]) -> None:
    """Raise UserError unless MPI started this process: MPI_Init would end it, or find a world of one rank."""
    if not any(variable in environment for variable in STARTED_BY_MPI):
        raise UserError(
            f"transport=mpi: {place.launcher} started these ranks; start them with mpirun, one for every rank, "
            "or set transport=gloo"
        )


def installed() -> bool:
    """Whether mpi4py is there; it is not imported, and MPI not initialised, before all ranks know that it is."""
    return importlib.util.find_spec("mpi4py") is not None


def _load() -> ModuleType:
    """mpi4py.MPI, without the MPI_Init and MPI_Finalize of its own accord."""
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"transport=mpi: mpi4py finds no MPI library, install one: {error}") from None
    return MPI


class MpiCommunicator:
    """A duplicate of MPI_COMM_WORLD, made by all ranks together; calls into MPI come from one thread at a time."""

    def __init__(self, place: Place, timeout_seconds: float) -> None:
        """Initialise MPI. Raises UserError if MPI counts ranks otherwise or is missing, RuntimeError on failure."""
        self._lock = threading.Lock()
        self._timeout = timeout_seconds
        self._abandoned: list[MPI.Request] = []  # MPI may still write to their buffers: these must stay alive
        self._mpi = mpi = _load()
        mpi.Init_thread(mpi.THREAD_SERIALIZED)
        everyone = mpi.COMM_WORLD
        everyone.Set_errhandler(mpi.ERRORS_RETURN)  # exceptions; the default ends the whole job at once
        mine, theirs = (place.rank, place.world_size), (everyone.rank, everyone.size)
        if mine != theirs:
            raise UserError(
                f"transport=mpi: {place.launcher} calls this rank {mine[0]} of {mine[1]}, "
                f"MPI calls it {theirs[0]} of {theirs[1]}: start all ranks with one mpirun"
            )
        communicator, request = everyone.Idup()
        self._communicator: MPI.Intracomm = communicator
        self.finish(request)

    def transport(self, peer: int, tag: int) -> "MpiTransport":
        """The channel to rank `peer` along the edge that `tag` stands for."""
        return MpiTransport(self, peer, tag)

    def isend(self, message: Tensor, peer: int, tag: int) -> "MPI.Request":
        with self._lock:
            return self._communicator.Isend([message.numpy(), self._mpi.BYTE], peer, tag)

    def irecv(self, buffer: Tensor, peer: int, tag: int) -> "MPI.Request":
        with self._lock:
            return self._communicator.Irecv([buffer.numpy(), self._mpi.BYTE], peer, tag)

    def finish(self, request: "MPI.Request") -> None:
        """Wait until `request` is done. Raises RuntimeError on timeout or failure, WireError on a longer message."""
        deadline, nap = time.monotonic() + self._timeout, FIRST_NAP
        while not self._test(request):
            if time.monotonic() > deadline:
                self._abandoned.append(request)
                raise RuntimeError(f"Timed out after {self._timeout:g} s of waiting for an MPI request")
            time.sleep(nap)
            nap = min(1.5 * nap, LONGEST_NAP)

    def _test(self, request: "MPI.Request") -> bool:
        try:
            with self._lock:
                return bool(request.Test())
        except self._mpi.Exception as error:
            if error.Get_error_class() == self._mpi.ERR_TRUNCATE:
                raise WireError("message: longer than what was due here") from None
            raise  # a RuntimeError

    def close(self) -> None:
        """Leave MPI; all ranks call this, none of them with a request under way. Raises RuntimeError on timeout."""
        self.finish(self._communicator.Ibarrier())  # Finalize has no timeout: enter it only together
        self._mpi.Finalize()


class MpiTransport:
    """The channel from this rank to `peer`."""

    def __init__(self, communicator: MpiCommunicator, peer: int, tag: int) -> None:
        self._communicator = communicator
        self._tag = tag
        self.peer = peer

    def send(self, message: Tensor) -> None:
        """Send a uint8 vector; returns when MPI has taken it. RuntimeError if it cannot."""
        self._communicator.finish(self._communicator.isend(message, self.peer, self._tag))

    def post_receive(self, buffer: Tensor) -> "MpiReceive":
        """Start receiving into `buffer`, a uint8 vector; a shorter message leaves its tail as it was."""
        assert buffer.dtype == torch.uint8
        return MpiReceive(self._communicator, self._communicator.irecv(buffer, self.peer, self._tag))


class MpiReceive:
    """A receive under way."""

    def __init__(self, communicator: MpiCommunicator, request: "MPI.Request") -> None:
        self._communicator = communicator
        self._request = request

    def wait(self) -> None:
        """Raises RuntimeError on loss or timeout."""
        self._communicator.finish(self._request)
