"""Blocking transfers between any two ranks of a launch, for who has no role and no edges: `splitcom doctor`."""

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.mpi_world import MpiWorld, finished

if TYPE_CHECKING:
    from mpi4py import MPI


def backends() -> list[str]:
    """The backends that this build of torch has."""
    there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    return [name for name, is_available in there.items() if is_available()]


class Channel(Protocol):
    """Blocking transfers of uint8 vectors; both raise RuntimeError on loss or timeout."""

    def send(self, message: Tensor, peer: int) -> None: ...

    def receive(self, buffer: Tensor, peer: int) -> None: ...

    def close(self) -> None: ...


class GlooChannel:
    """The Gloo group of all ranks."""

    def __init__(self, store: dist.Store, prefix: str, rank: int, world_size: int, timeout_seconds: float) -> None:
        patience = timedelta(seconds=timeout_seconds)
        store = dist.PrefixStore(prefix, store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)

    def send(self, message: Tensor, peer: int) -> None:
        dist.send(message, peer)

    def receive(self, buffer: Tensor, peer: int) -> None:
        dist.recv(buffer, peer)

    def close(self) -> None:
        """Close the connections, so that ranks that still wait here learn it now."""
        dist.destroy_process_group()


class MpiChannel:
    """MPI_COMM_WORLD, whose ranks are those of the launch."""

    def __init__(self, world: MpiWorld, timeout_seconds: float) -> None:
        self._communicator = world.communicator
        self._timeout = timeout_seconds

    def send(self, message: Tensor, peer: int) -> None:
        self._wait(self._communicator.Isend(message.numpy(), peer))

    def receive(self, buffer: Tensor, peer: int) -> None:
        self._wait(self._communicator.Irecv(buffer.numpy(), peer))

    def close(self) -> None:
        pass  # finalising MPI is the end of the process's business

    def _wait(self, request: "MPI.Request") -> None:
        if not finished(request, self._timeout):
            raise RuntimeError("timed out")
