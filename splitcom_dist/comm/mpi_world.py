"""MPI's view of the launch: joined on first need, because initialising MPI waits for all ranks, and left in order."""

import atexit
import ctypes
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from mpi4py import MPI

JOIN_SECONDS = 60.0  # until the last rank has come to MPI_Init; imports take seconds on a slow file system
LEAVE_SECONDS = 10
MESSAGE_BYTES = 512


@dataclass(frozen=True)
class MpiWorld:
    """MPI_COMM_WORLD with this process's coordinates: rank, size, rank on this host, ranks on this host."""

    communicator: "MPI.Intracomm"
    coordinates: tuple[int, int, int, int]

    def check(self, rank: int, size: int) -> None:
        """Raises UserError if the launcher told something else: another MPI library than mpi4py's started the ranks."""
        if self.coordinates[:2] != (rank, size):
            raise UserError(
                f"mpi4py sees rank {self.coordinates[0]} of {self.coordinates[1]}, the launcher said {rank} of {size}, "
                "so it found another MPI library than the launcher's: start the ranks with the mpirun of that library, "
                "or export MPI4PY_MPIABI=mpich or openmpi"
            )

    def broadcast(self, text: str, timeout_seconds: float) -> str:
        """Rank 0's text, at most 512 bytes, on every rank. Raises UserError if not all take part in time."""
        buffer = bytearray(text.encode().ljust(MESSAGE_BYTES))
        if not finished(self.communicator.Ibcast(buffer, root=0), timeout_seconds):
            raise UserError(f"not every rank took part in a broadcast over MPI within {timeout_seconds:.0f} s")
        return buffer.decode().strip()


def finished(request: "MPI.Request", timeout_seconds: float) -> bool:
    """Whether the request completes in time; polled, since MPI itself knows no timeout."""
    deadline, polls = time.monotonic() + timeout_seconds, 0
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        polls += 1
        time.sleep(0 if polls < 1000 else 0.0005)  # the cores belong to ranks that compute
    return True


def load() -> ModuleType:
    """The module mpi4py.MPI; loading it initialises nothing. Raises UserError if it or the MPI library is missing."""
    try:
        import mpi4py

        if "mpi4py.MPI" not in sys.modules:
            mpi4py.rc.initialize = False
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise UserError("mpi4py is not installed: pip install 'splitcom-dist[mpi]'") from None
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"mpi4py finds no MPI library ({reason}): install Open MPI or MPICH") from None
    return MPI


def join(timeout_seconds: float = JOIN_SECONDS) -> MpiWorld:
    """Initialise MPI together with the other ranks. Raises UserError if they do not come in time."""
    mpi = load()
    worlds: list[MpiWorld] = []
    # A thread, because a call into MPI cannot be given up; one that hangs ends with this process.
    joining = threading.Thread(target=lambda: worlds.append(_initialise(mpi)), daemon=True)
    joining.start()
    joining.join(timeout_seconds)
    if not worlds:
        raise UserError(f"MPI did not bring all ranks together within {timeout_seconds:.0f} s: see which one hangs")
    return worlds[0]


def _initialise(mpi: ModuleType) -> MpiWorld:
    world = mpi.COMM_WORLD
    if not mpi.Is_initialized():
        # Not by mpi4py's own function, which keeps Python's lock while it waits: nothing could time it out.
        provided = ctypes.c_int()
        ctypes.CDLL(mpi.__file__).MPI_Init_thread(None, None, mpi.THREAD_MULTIPLE, ctypes.byref(provided))
        world.Set_errhandler(mpi.ERRORS_RETURN)  # as mpi4py does: exceptions, instead of the end of all ranks
        mpi.COMM_SELF.Set_errhandler(mpi.ERRORS_RETURN)
        atexit.register(leave)
    here = world.Split_type(mpi.COMM_TYPE_SHARED)
    coordinates = world.Get_rank(), world.Get_size(), here.Get_rank(), here.Get_size()
    here.Free()
    return MpiWorld(world, coordinates)


def leave() -> None:
    """Finalise MPI if it was initialised: mpirun calls a rank that ends without it a failure.

    Finalising waits for the other ranks; where they do not come, it ends this process.
    """
    if "mpi4py.MPI" not in sys.modules:
        return
    mpi = load()
    if mpi.Is_initialized() and not mpi.Is_finalized():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LEAVE_SECONDS)  # the kernel's, since mpi4py keeps Python's lock here, too
        mpi.Finalize()
        signal.alarm(0)
