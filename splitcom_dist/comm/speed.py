"""Round trips and bandwidth between every pair of ranks, over any transport."""

import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.mpi_world import finished

if TYPE_CHECKING:
    from mpi4py import MPI

PING_BYTES = 160  # what a skipped batch costs on the wire, header and masks
BULK_BYTES = 2**20
TRIPS = 30
BULK_SECONDS, BULK_MESSAGES = 0.3, 16  # a slow link is measured by fewer messages
FIGURES = struct.Struct("<d")


class Channel(Protocol):
    """Blocking transfers of uint8 vectors; both raise RuntimeError on loss or timeout."""

    def send(self, message: Tensor, peer: int) -> None: ...

    def receive(self, buffer: Tensor, peer: int) -> None: ...


class GlooChannel:
    """The Gloo group of all ranks."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_seconds: float) -> None:
        patience = timedelta(seconds=timeout_seconds)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)

    def send(self, message: Tensor, peer: int) -> None:
        dist.send(message, peer)

    def receive(self, buffer: Tensor, peer: int) -> None:
        dist.recv(buffer, peer)

    def close(self) -> None:
        """Close the connections, so that ranks that still wait here learn it now."""
        dist.destroy_process_group()


class MpiChannel:
    """A communicator of MPI's in which ranks are those of the launch."""

    def __init__(self, communicator: "MPI.Intracomm", timeout_seconds: float) -> None:
        self._communicator = communicator
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


@dataclass(frozen=True)
class Pair:
    """What two ranks measured of each other."""

    first: int
    second: int
    round_trip_seconds: float  # of 160 bytes and back, median
    forward: float  # bytes per second from first to second, in messages of 1 MiB
    backward: float
    clock_offset_seconds: float  # the second's clock minus the first's
    clock_error_seconds: float  # at most, of the above: half the shortest round trip


def rounds(world_size: int) -> list[list[tuple[int, int]]]:
    """A round-robin tournament (circle method): every pair meets once, and no rank has two matches in a round.

    Every rank plays its matches in the order of the rounds. None can wait in a circle: of all unplayed matches, both
    sides of one in the earliest round have nothing to play before it.
    """
    size = world_size + world_size % 2  # with an odd count, whoever meets the last place rests
    circle = list(range(1, size))
    tournament = []
    for _ in range(size - 1):
        seats = [0, *circle]
        matches = [(seats[place], seats[size - 1 - place]) for place in range(size // 2)]
        tournament.append([(min(match), max(match)) for match in matches if max(match) < world_size])
        circle = circle[-1:] + circle[:-1]
    return tournament


def measure(channel: Channel, rank: int, peer: int) -> Pair | None:
    """One match; the lower rank returns the figures. RuntimeError when the peer is lost or silent."""
    if rank < peer:
        trip, offset, error = _ping(channel, peer)
        forward = _pour(channel, peer)
        _drain(channel, peer)
        backward = _receive_figure(channel, peer)
        return Pair(rank, peer, trip, forward, backward, offset, error)
    _echo(channel, peer)
    _drain(channel, peer)
    _send_figure(channel, peer, _pour(channel, peer))
    return None


def _ping(channel: Channel, peer: int) -> tuple[float, float, float]:
    message, trips, offsets = torch.zeros(PING_BYTES, dtype=torch.uint8), [], []
    for _ in range(1 + TRIPS):
        sent = time.time()
        started = time.perf_counter()
        channel.send(message, peer)
        channel.receive(message, peer)
        trips.append(time.perf_counter() - started)
        (there,) = FIGURES.unpack(message[: FIGURES.size].numpy().tobytes())
        offsets.append(there - (sent + trips[-1] / 2))  # as NTP does
    trips, offsets = trips[1:], offsets[1:]  # the first one sets up the connection
    shortest = min(range(TRIPS), key=trips.__getitem__)
    return statistics.median(trips), offsets[shortest], trips[shortest] / 2


def _echo(channel: Channel, peer: int) -> None:
    message = torch.zeros(PING_BYTES, dtype=torch.uint8)
    for _ in range(1 + TRIPS):
        channel.receive(message, peer)
        message[: FIGURES.size] = _figure(time.time())
        channel.send(message, peer)


def _pour(channel: Channel, peer: int) -> float:
    """Bytes per second from here to the peer's `_drain`, as the peer's answer confirms them."""
    message = torch.zeros(BULK_BYTES, dtype=torch.uint8)
    once = _timed(lambda: channel.send(message, peer), channel, peer)
    count = max(1, min(BULK_MESSAGES, int(BULK_SECONDS / once)))
    _send_figure(channel, peer, float(count))

    def burst() -> None:
        for _ in range(count):
            channel.send(message, peer)

    return count * BULK_BYTES / _timed(burst, channel, peer)


def _drain(channel: Channel, peer: int) -> None:
    message = torch.empty(BULK_BYTES, dtype=torch.uint8)
    channel.receive(message, peer)
    _send_figure(channel, peer, 0.0)
    for _ in range(int(_receive_figure(channel, peer))):
        channel.receive(message, peer)
    _send_figure(channel, peer, 0.0)


def _timed(act: Callable[[], None], channel: Channel, peer: int) -> float:
    started = time.perf_counter()
    act()
    _receive_figure(channel, peer)
    return time.perf_counter() - started


def _figure(value: float) -> Tensor:
    return torch.frombuffer(bytearray(FIGURES.pack(value)), dtype=torch.uint8)


def _send_figure(channel: Channel, peer: int, value: float) -> None:
    channel.send(_figure(value), peer)


def _receive_figure(channel: Channel, peer: int) -> float:
    buffer = torch.empty(FIGURES.size, dtype=torch.uint8)
    channel.receive(buffer, peer)
    return float(FIGURES.unpack(buffer.numpy().tobytes())[0])
