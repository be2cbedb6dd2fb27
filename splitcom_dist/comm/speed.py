"""Round trip, bandwidth and clock offset between two ranks, over any transport."""

import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.comm.channels import Channel

PING_BYTES = 160  # a small packet: little more than its header
BULK_BYTES = 2**20
TRIPS = 30
BULK_SECONDS, BULK_MESSAGES = 0.3, 16  # a slow link is measured by fewer messages
FIGURES = struct.Struct("<d")


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
