"""Point-to-point over MPI: one communicator of our own, a tag an edge, messages are uint8 vectors.

Only packets of the client-server edges travel here. Averaging, the servers' sums of gradients and their adapters are
collectives and transfers of Gloo groups (reduce.py, gradients.py) and stay there, as does control. Requests are tested,
with naps in between, until they are done or the timeout is over, so that a peer that is lost or silent becomes an error
here. MPI itself gives no sign of a lost process; mpirun ends the job, unless told --enable-recovery.
"""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitcom_dist.comm import mpi_world
from splitcom_dist.errors import UserError, WireError
from splitcom_dist.place import MPI_SIGNS, Place

if TYPE_CHECKING:
    from mpi4py import MPI

STARTED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", *MPI_SIGNS)  # any of them
FIRST_NAP, LONGEST_NAP = 10e-6, 1e-3  # seconds between two tests: short for what is due, no core taken for long waits


def check_launcher(place: Place, environment: Mapping[str, str]) -> None:
    """Raise UserError unless MPI started this process: MPI_Init would end it, or find a world of one rank."""
    if not any(variable in environment for variable in STARTED_BY_MPI):
        raise UserError(
            f"transport=mpi: {place.launcher} started these ranks; start them with mpirun (launch/mpirun.sh), "
            "or set transport=tcp"
        )


def available() -> bool:
    """Whether mpi4py and an MPI library are there; nothing is initialised."""
    try:
        mpi_world.load()
    except UserError:
        return False
    return True


class MpiCommunicator:
    """A duplicate of MPI_COMM_WORLD, made by all ranks together; calls into MPI come from one thread at a time."""

    def __init__(self, place: Place, timeout_seconds: float) -> None:
        """Initialise MPI if nobody has. Raises UserError if MPI counts ranks otherwise, RuntimeError on failure."""
        world = mpi_world.join(timeout_seconds)
        world.check(place.rank, place.world_size)
        self._mpi = mpi_world.load()
        self._lock = threading.Lock()
        self._timeout = timeout_seconds
        self._abandoned: list[MPI.Request] = []  # MPI may still write to their buffers: these must stay alive
        self._communicator, request = world.communicator.Idup()
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


class MpiTransport:
    """The channel from this rank to `peer`."""

    def __init__(self, communicator: MpiCommunicator, peer: int, tag: int) -> None:
        self._communicator = communicator
        self._tag = tag
        self.peer = peer

    def send(self, *messages: Tensor) -> None:
        """Send uint8 vectors, one after the other; returns when MPI has taken them. RuntimeError if it cannot."""
        for transfer in [self.post_send(message) for message in messages]:
            transfer.wait()

    def post_send(self, message: Tensor) -> "MpiTransfer":
        """Start sending a uint8 vector, behind those that are under way."""
        return MpiTransfer(self._communicator, self._communicator.isend(message, self.peer, self._tag))

    def post_receive(self, buffer: Tensor) -> "MpiTransfer":
        """Start receiving into `buffer`, a uint8 vector; a shorter message leaves its tail as it was."""
        assert buffer.dtype == torch.uint8
        return MpiTransfer(self._communicator, self._communicator.irecv(buffer, self.peer, self._tag))


class MpiTransfer:
    """A message under way."""

    def __init__(self, communicator: MpiCommunicator, request: "MPI.Request") -> None:
        self._communicator = communicator
        self._request = request

    def wait(self) -> None:
        """Raises RuntimeError on loss or timeout."""
        self._communicator.finish(self._request)
