"""Point-to-point over NCCL: payloads from device to device, one communicator a client-server pair.

Only the payloads of links whose codec stays on the device travel here; headers and all that is made on the host go
ahead of them over TCP, so that a receive is posted for as many bytes as a checked header says. NCCL has no tags and
no way to refuse a message of another length: transfers of a pair match by their order, which is the same at both ends.
A rank has one transfer under way at a time and waits for it, so no two communicators wait for each other, and both
ends of a pair must not send at once. Every wait ends: what is not done in time is aborted, and its communicator
with it. A peer that dies on the same host may only be noticed by that; on another host NCCL may tell sooner.

Not yet run on GPUs. What it does with a stand-in for NCCL is in tests/comm/test_nccl_p2p.py, what is to be seen on two
GPUs in tests/comm/test_transports.py (`pytest -m gpu`).
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout

FIRST_NAP, LONGEST_NAP = 10e-6, 1e-3  # seconds between two looks: short for what is due, no core taken for long waits
SETTINGS = {  # of torch, in the environment; torchrun sets the first one to 1
    # 0: its watchdog would end the process, where an error here names the peer and lets the others know.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    # It warns that transfers of one communicator are done one after the other, which is what they are meant to be.
    "TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING": "false",
}


class Transfer(Protocol):
    def is_completed(self) -> bool:
        """Whether it is done, or has failed."""
        ...

    def wait(self) -> object:
        """Let the device's current stream wait for it; raises RuntimeError if it has failed."""
        ...


class Communicator(Protocol):
    """What of torch's ProcessGroupNCCL is used; ranks are 0 for the client and 1 for the server."""

    def send(self, tensors: list[Tensor], rank: int, tag: int) -> Transfer: ...

    def recv(self, tensors: list[Tensor], rank: int, tag: int) -> Transfer: ...

    def abort(self) -> None: ...


def check_devices(layout: Layout, identities: Mapping[int, str]) -> None:
    """Raise UserError unless every client and server has a device, and no pair has one between them.

    `identities` are those of all ranks, empty where a rank has no device or its torch no NCCL. Ranks that exchange
    nothing may share one.
    """
    lacking = [rank for rank in (*layout.client_ranks, *layout.server_ranks) if not identities[rank]]
    if lacking:
        raise UserError(
            f"transport=nccl: no CUDA device, or no NCCL in torch, on {', '.join(map(layout.name_of, lacking))}: "
            "set transport=tcp"
        )
    for client, server in layout.edges():
        if identities[client] == identities[server]:
            raise UserError(
                f"transport=nccl: {layout.name_of(client)} and {layout.name_of(server)} share one device "
                f"({identities[client]}), between which NCCL cannot send: give each its own, or set transport=tcp"
            )


def connect(
    store: dist.Store, edge: tuple[int, int], rank: int, device: torch.device, timeout_seconds: float
) -> "NcclTransport":
    """This rank's end of an edge (client rank, server rank); both ends call it, in the same order for all edges.

    Raises RuntimeError if the other end does not come in time.
    """
    os.environ.update(SETTINGS)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=2 * timeout_seconds)  # torch's own, behind ours
    own = edge.index(rank)
    pair = dist.ProcessGroupNCCL(dist.PrefixStore(f"nccl/{edge[0]}-{edge[1]}", store), own, 2, options)
    pair._set_sequence_number_for_group()
    within(timeout_seconds, lambda: _connect_now(pair, device))
    return NcclTransport(cast(Communicator, pair), 1 - own, edge[1 - own], device, timeout_seconds)


def _connect_now(pair: "dist.ProcessGroupNCCL", device: torch.device) -> None:
    torch.cuda.set_device(device)  # a thread's own
    pair.eager_connect_single_device(device)


def within(seconds: float, act: Callable[[], None]) -> None:
    """Do what cannot be interrupted in a thread that is left behind if it takes longer. Raises RuntimeError."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            act()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise RuntimeError(f"Timed out after {seconds:g} s of waiting for the other end of an NCCL communicator")
    if failures:
        raise RuntimeError(str(failures[0])) from failures[0]


class NcclTransport:
    """The channel from this rank's `device` to that of `peer`, which is rank `other` of the pair."""

    def __init__(self, pair: Communicator, other: int, peer: int, device: torch.device, timeout_seconds: float) -> None:
        self.peer = peer
        self.device = device
        self._pair = pair
        self._other = other
        self._timeout = timeout_seconds

    def send(self, message: Tensor) -> None:
        """Send a uint8 vector that is on `device`; returns when the peer has it. RuntimeError if it never does."""
        self.finish(self._pair.send([message], self._other, 0))

    def post_receive(self, buffer: Tensor) -> "NcclReceive":
        """Start receiving into `buffer`, which is on `device` and has exactly the length of the message."""
        return NcclReceive(self, self._pair.recv([buffer], self._other, 0))

    def finish(self, transfer: Transfer) -> None:
        """Wait on the host until it is done. Raises RuntimeError on failure, and on timeout, which closes the channel.

        torch's own `wait` makes the device wait; with a limit it makes the host wait, but not in all versions.
        """
        deadline, nap = time.monotonic() + self._timeout, FIRST_NAP
        while not transfer.is_completed():
            if time.monotonic() > deadline:
                self._pair.abort()  # else a kernel stays on the device that waits for the peer for ever
                raise RuntimeError(f"Timed out after {self._timeout:g} s of waiting for an NCCL transfer")
            time.sleep(nap)
            nap = min(1.5 * nap, LONGEST_NAP)
        transfer.wait()


class NcclReceive:
    """A receive under way."""

    def __init__(self, transport: NcclTransport, transfer: Transfer) -> None:
        self._transport = transport
        self._transfer = transfer

    def wait(self) -> None:
        """Raises RuntimeError on loss or timeout."""
        self._transport.finish(self._transfer)
