"""What test_transports.py starts three times, as it is or under mpirun: a client, its server, an idle aggregator.

    python transport_ranks.py TRANSPORT SCENARIO

Each rank that has something to tell prints one line of JSON.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from splitcom_dist.codec.header import HEADER, Expected, Header
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.transports import SLOT
from splitcom_dist.devices import device_for, take
from splitcom_dist.ending import end_process
from splitcom_dist.errors import PeerLost, WireError
from splitcom_dist.layout import Layout
from splitcom_dist.place import find_place
from splitcom_dist.world import World

TIMEOUT = 4.0
CLIENT, SERVER = 0, 1
EXACT = [SLOT - HEADER.size + difference for difference in (-1, 0, 1)]  # around what fits into one message
SIZES = [1, 3, 1000, *EXACT, SLOT, 2**18 + 5, 2**20, 2**23]  # bytes


def body(size: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def packets(world: World) -> dict[str, object]:
    """Every size goes up as a packet, and another of the same size comes down; slots are posted ahead."""
    devices = world.device_transport(CLIENT)
    edge = Edge(world.transport(CLIENT), "the peer", devices)

    def take(link: int, step: int, size: int) -> int:
        expected = Expected("the peer", link, step, 0, 8, 10**6, (0, 0, 0, 0, 0, size), apart=devices is not None)
        _, sections, received = edge.receive(expected)
        assert devices is None or sections["symbols"].device == devices.device
        return received if sections["symbols"].cpu().equal(body(size, 2 * step + link)) else -1

    def give(link: int, step: int, size: int) -> int:
        symbols = body(size, 2 * step + link)
        if devices is None:
            return edge.send(Header(link, step, 0), {"symbols": symbols})
        return edge.send(Header(link, step, 0), {"symbols": symbols.to(devices.device)}, apart=True)

    counts = []
    for step, size in enumerate(SIZES):
        edge.post()
        first, second = (give, take) if world.rank == CLIENT else (take, give)
        counts.append([first(0, step, size), second(1, step, size)])
    return {"counts": counts}


def crossing(world: World) -> dict[str, object]:
    """Both send at once, every size, each into a buffer that the other has posted; then one into a larger buffer."""
    transport = world.transport(CLIENT)
    same = []
    for seed, size in enumerate(SIZES):
        buffer = torch.zeros(size, dtype=torch.uint8)
        pending = transport.post_receive(buffer)
        transport.send(body(size, 2 * seed + world.rank))
        pending.wait()
        same.append(buffer.equal(body(size, 2 * seed + 1 - world.rank)))
    buffer = torch.full((10,), 7, dtype=torch.uint8)
    pending = transport.post_receive(buffer)
    transport.send(torch.arange(4, dtype=torch.uint8))
    pending.wait()
    return {"same": same, "short": buffer.tolist()}


def longer(world: World) -> dict[str, object]:
    """A message that is longer than what was posted is refused; what Gloo does is end the process."""
    transport = world.transport(CLIENT)
    if world.rank == CLIENT:
        transport.send(body(100, 0))
        return {}
    try:
        transport.post_receive(torch.empty(10, dtype=torch.uint8)).wait()
    except WireError as error:
        return {"error": str(error)}
    return {}


def lost(world: World, act: Callable[[], None]) -> dict[str, object]:
    """One packet, then the client does `act` while the server waits for the next."""
    edge = Edge(world.transport(CLIENT), world.layout.name_of(CLIENT))
    if world.rank == CLIENT:
        edge.send(Header(0, 0, 0), {})
        time.sleep(0.5)
        act()
    edge.receive(Expected("the client", 0, 0, 0, 8, 0, (0,) * 6))
    edge.post()
    return waiting(lambda: edge.receive(Expected("the client", 0, 1, 0, 8, 0, (0,) * 6)))


def killed(world: World) -> dict[str, object]:
    return lost(world, lambda: os.kill(os.getpid(), signal.SIGKILL))


def silent(world: World) -> dict[str, object]:
    return lost(world, lambda: time.sleep(3 * TIMEOUT))


def unheard(world: World) -> dict[str, object]:
    """The server sends 64 MiB, more than any kernel buffers, to a client that never receives."""
    edge = Edge(world.transport(CLIENT), world.layout.name_of(CLIENT))
    if world.rank == CLIENT:
        time.sleep(3 * TIMEOUT)
    return waiting(lambda: edge.send(Header(1, 1, 0), {"symbols": body(2**26, 0)}))


def untaken(world: World) -> dict[str, object]:
    """The server sends a payload of 8 MiB to a client that believes its header and then takes no more."""
    devices = world.device_transport(CLIENT)
    if world.rank == CLIENT:
        world.transport(CLIENT).post_receive(torch.empty(SLOT, dtype=torch.uint8)).wait()
        time.sleep(3 * TIMEOUT)
    assert devices is not None
    edge = Edge(world.transport(CLIENT), world.layout.name_of(CLIENT), devices)
    payload = body(2**23, 0).to(devices.device)
    return waiting(lambda: edge.send(Header(1, 1, 0), {"symbols": payload}, apart=True))


def waiting(act: Callable[[], object]) -> dict[str, object]:
    """The error that `act` ends with, after how many seconds, and the processor time that they took."""
    started, used = time.monotonic(), time.process_time()
    try:
        act()
    except PeerLost as error:
        seconds, busy = time.monotonic() - started, time.process_time() - used
        return {"error": str(error), "ranks": error.ranks, "seconds": seconds, "busy": busy}
    return {"error": None}


def main(transport: str, scenario: str) -> None:
    place = find_place(os.environ)
    assert place is not None
    world = World(place, Layout(1, 1, 1), TIMEOUT, transport)
    torch.set_num_threads(1)
    if transport == "nccl":
        device = device_for("cuda", place.local_rank)
        take(device)
        world.connect_devices(device)
    together = scenario in ("packets", "crossing", "longer")
    if world.rank in (CLIENT, SERVER):
        told = globals()[scenario](world)
        print(json.dumps({"rank": world.rank, **told}), flush=True)
        world.announce("over")
    elif not together:
        world.wait_for("over", [world.rank], "the end")
    if together:
        world.sum_over_ranks("done", torch.zeros(1, dtype=torch.int64))
        world.leave()
        end_process(0)  # finalises MPI
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
