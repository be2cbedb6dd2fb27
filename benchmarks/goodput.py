"""Goodput of packets from one rank to another, against a raw TCP socket with the same payload and bare Gloo.

    python benchmarks/goodput.py [--rounds 7] [--megabytes 128] [--payloads 1000]

Two processes on this machine, over loopback. `tcp` is sendall and recv_into of the payload; `gloo` is one send and a
posted receive of torch.distributed's Gloo a payload; `over gloo` and `over tcp` are our packets with transport=gloo and
transport=tcp: `Edge.send` and `Edge.receive`, so header, checksum, both messages, and every check of the receiver. A
burst of payloads is timed from the first send to the receiver's word that the last is there, after one that is not; a
round times the four one after the other. Printed are medians over rounds, and the median of a round's ratios. `pack`
and `parse` are the CPU time that a packet of this size takes at its two ends without any transport. Writes
benchmarks/results/goodput.md; a minute on two idle cores.
"""

import argparse
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from machine import machine
from torch import Tensor

from splitcom_dist.codec.header import HEADER, Expected, Header, parse_header
from splitcom_dist.codec.wire import in_messages, pack, parse_body
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.tcp_p2p import TcpPair
from splitcom_dist.comm.transports import SLOT
from splitcom_dist.heap import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "goodput.md"
SIZES = {
    **{f"{kilo} kB": kilo * 1000 for kilo in (1, 32, 256)},
    **{f"{mega} MB": mega * 1000**2 for mega in (1, 4, 16, 64)},
}
PATHS = ("tcp", "gloo", "over gloo", "over tcp")
REACH, REACH_FROM, SEED, PATIENCE = 0.9, 1000**2, 0, 300.0
HEAD = Header(link=0, step=0, client=0)


@dataclass
class Ends:
    """This process's end of each path; `word` carries who is ready."""

    tcp: socket.socket
    gloo: GlooPair
    edges: dict[str, Edge]
    word: socket.socket

    def sender(self, path: str, payload: Tensor) -> Callable[[], object]:
        if path == "tcp":
            view = payload.numpy().data
            return lambda: self.tcp.sendall(view)
        if path == "gloo":
            return lambda: self.gloo.send(payload)
        return lambda: self.edges[path].send(HEAD, {"symbols": payload})

    def receiver(self, path: str, size: int) -> Callable[[], object]:
        buffer = torch.empty(size, dtype=torch.uint8)
        if path == "tcp":
            return lambda: fill(self.tcp, buffer.numpy().data)
        if path == "gloo":
            return lambda: self.gloo.receive(buffer)
        return lambda: self.edges[path].receive(expected(size))


def edges(store: dist.Store, rank: int, peer: str) -> dict[str, Edge]:
    """Of one process, which are made in the same order by both."""
    keep_freed_memory()
    over_gloo = Edge(GlooPair(store, "edge", rank, 1 - rank, PATIENCE), peer)
    return {"over gloo": over_gloo, "over tcp": Edge(TcpPair(store, "edge", rank, 1 - rank, PATIENCE), peer)}


def expected(size: int) -> Expected:
    return Expected("the sender", 0, 0, 0, 0, 0, (0, 0, 0, 0, 0, size))


def fill(connection: socket.socket, view: memoryview) -> None:
    while view:
        view = view[connection.recv_into(view) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=128, help="of a burst, two payloads at least")
    parser.add_argument("--payloads", type=int, default=1000, help="of a burst, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    most, megabytes = options.payloads, options.megabytes
    counts = {name: max(2, min(most, megabytes * 1000**2 // size)) for name, size in SIZES.items()}
    listener = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    child = multiprocessing.get_context("fork").Process(
        target=receive_all, args=(listener.getsockname()[1], store.port, theirs, counts, options.rounds)
    )
    child.start()
    tcp, _ = listener.accept()
    ends = Ends(tcp, GlooPair(store, "gloo", 0, 1, PATIENCE), edges(store, 0, "the receiver"), ours)
    lines = [head(options.rounds)]
    for name in SIZES:
        lines.append(row(name, counts[name], ends, options.rounds))
        print(lines[-1], file=sys.stderr, flush=True)
    child.join()
    text = "\n".join([*lines, ""])
    print(text)
    RESULTS.write_text(text)


def receive_all(port: int, store_port: int, word: socket.socket, counts: Mapping[str, int], rounds: int) -> None:
    """The other process: it knows what comes, and says when it is there."""
    tcp = socket.create_connection(("127.0.0.1", port))
    store = dist.TCPStore("127.0.0.1", store_port, is_master=False)
    ends = Ends(tcp, GlooPair(store, "gloo", 1, 0, PATIENCE), edges(store, 1, "the sender"), word)
    for name, size in SIZES.items():
        receivers = [ends.receiver(path, size) for path in PATHS]
        for _ in range(1 + rounds):
            for receive in receivers:
                for _ in range(counts[name]):
                    receive()
                word.send(b"!")


def row(name: str, count: int, ends: Ends, rounds: int) -> str:
    size = SIZES[name]
    payload = torch.randint(0, 256, (size,), dtype=torch.uint8)
    senders = {path: ends.sender(path, payload) for path in PATHS}
    rates: dict[str, list[float]] = {path: [] for path in senders}
    for number in range(1 + rounds):
        for path, send in senders.items():
            started = time.perf_counter()
            for _ in range(count):
                send()
            ends.word.recv(1)
            if number:
                rates[path].append(size * count / (time.perf_counter() - started))
    ratios = [
        median(one / other for one, other in zip(rates[path], rates[base], strict=True))
        for path, base in (("over tcp", "tcp"), ("over gloo", "tcp"), ("gloo", "tcp"))
    ]
    reach = "-" if size < REACH_FROM else f"{REACH}"
    packing, parsing = ends_alone(payload, rounds)
    megabytes_per_second = (f"{median(values) / 1e6:,.0f}" for values in rates.values())
    cells = [name, *megabytes_per_second, *(f"{ratio:.2f}" for ratio in ratios), reach]
    return f"| {' | '.join([*cells, f'{1e3 * packing:.3f}', f'{1e3 * parsing:.3f}'])} |"


def ends_alone(payload: Tensor, rounds: int) -> tuple[float, float]:
    """Seconds of CPU to make a packet of this payload, and to check it."""
    packet, allowed = pack(HEAD, {"symbols": payload}), expected(len(payload))
    sections = {"symbols": payload}
    times: list[tuple[float, float]] = []
    for _ in range(max(9, rounds)):
        started = time.thread_time()
        in_messages(HEAD, sections, SLOT)
        packed = time.thread_time()
        parse_body(parse_header(packet, allowed), packet[HEADER.size :], allowed)
        times.append((packed - started, time.thread_time() - packed))
    return median(packing for packing, _ in times), median(parsing for _, parsing in times)


def head(rounds: int) -> str:
    return "\n".join(
        [
            "# Goodput of packets between two ranks",
            "",
            f"Loopback, one thread a process, medians of {rounds} interleaved rounds; MB/s of payload; milliseconds to "
            f"pack and to parse. Seed {SEED}. {machine()}",
            "",
            f"| payload | {' | '.join(PATHS)} | over tcp/tcp | over gloo/tcp | gloo/tcp | reach | pack | parse |",
            f"|---|{'---:|' * 10}",
        ]
    )


if __name__ == "__main__":
    main()
