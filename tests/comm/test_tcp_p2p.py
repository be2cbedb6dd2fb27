"""Two ends of a TCP pair in one process: who may connect, what arrives, and how either end is told that it is over."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.comm.tcp_meeting import address_towards
from splitcom_dist.comm.tcp_p2p import TcpPair
from splitcom_dist.errors import WireError

TIMEOUT = 5.0
CLIENT, SERVER = 0, 1


def meet(store: dist.Store, name: str, timeout: float = TIMEOUT) -> tuple[TcpPair, TcpPair]:
    with ThreadPoolExecutor() as pool:
        server = pool.submit(TcpPair, store, name, SERVER, CLIENT, timeout)
        return TcpPair(store, name, CLIENT, SERVER, timeout), server.result()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[TcpPair, TcpPair]]:
    yield meet(dist.HashStore(), "shared")


def message(size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 100_000), min_size=1, max_size=5), posted=st.booleans())
def test_messages_arrive_whole_in_their_order(pair: tuple[TcpPair, TcpPair], sizes: list[int], posted: bool) -> None:
    client, server = pair
    messages = [message(size, seed) for seed, size in enumerate(sizes)]
    if posted:
        for sending in [client.post_send(each) for each in messages]:
            sending.wait()
    else:
        client.send(*messages)
    for each in messages:
        buffer = torch.zeros(len(each) + 3, dtype=torch.uint8)
        server.post_receive(buffer).wait()
        assert buffer[: len(each)].equal(each) and buffer[len(each) :].tolist() == [0] * 3


def test_what_no_kernel_buffers_crosses_both_ways_at_once(pair: tuple[TcpPair, TcpPair]) -> None:
    size = 2**26
    sending = [end.post_send(message(size, seed)) for seed, end in enumerate(pair)]
    for seed, end in enumerate(reversed(pair)):
        buffer = torch.zeros(size, dtype=torch.uint8)
        end.post_receive(buffer).wait()
        assert buffer.equal(message(size, seed))
    for each in sending:
        each.wait()


def test_a_longer_message_is_refused_and_ends_the_pair() -> None:
    client, server = meet(dist.HashStore(), "longer")
    client.send(message(100))
    with pytest.raises(WireError, match="longer than what was due"):
        server.post_receive(torch.empty(10, dtype=torch.uint8)).wait()
    with pytest.raises(RuntimeError, match="Connection"):
        client.receive(torch.empty(10, dtype=torch.uint8))


def test_silence_ends_a_wait_and_the_peer_hears_of_it() -> None:
    client, server = meet(dist.HashStore(), "silent", timeout=0.3)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out"):
        server.post_receive(torch.empty(10, dtype=torch.uint8)).wait()
    assert 0.3 <= time.monotonic() - started < 3
    with pytest.raises(RuntimeError, match="Connection"):
        client.receive(torch.empty(10, dtype=torch.uint8))


def test_who_trickles_is_not_silent() -> None:
    """The timeout is of silence: a message that takes longer arrives, as long as some of it does."""
    client, server = meet(dist.HashStore(), "trickle", timeout=0.5)
    whole = (8).to_bytes(8, "little") + bytes(range(8))

    def trickle() -> None:
        for byte in whole:
            client._socket.sendall(bytes([byte]))
            time.sleep(0.1)

    threading.Thread(target=trickle).start()
    buffer = torch.empty(8, dtype=torch.uint8)
    server.receive(buffer)
    assert buffer.tolist() == list(range(8))


def test_behind_a_failure_nothing_more_is_sent() -> None:
    client, server = meet(dist.HashStore(), "failure", timeout=0.5)
    posted = [client.post_send(message(2**26)) for _ in range(3)]  # nobody reads
    started = time.monotonic()
    for each in posted:
        with pytest.raises(RuntimeError, match="timed out"):
            each.wait()
    assert time.monotonic() - started < 3, "one timeout for all"
    server._socket.close()


def test_a_stranger_is_shown_out() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor() as pool:
        server = pool.submit(TcpPair, store, "strangers", SERVER, CLIENT, TIMEOUT)
        store.wait(["tcp/strangers"])
        host, port, word = store.get("tcp/strangers").decode().split()
        assert len(bytes.fromhex(word)) == 16
        for said in (b"x" * 16, b"short", b""):
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
        client = TcpPair(store, "strangers", CLIENT, SERVER, TIMEOUT)
        client.send(message(5))
        buffer = torch.empty(5, dtype=torch.uint8)
        server.result().receive(buffer)
    assert buffer.equal(message(5))


@pytest.mark.parametrize("rank", [CLIENT, SERVER])
def test_nobody_is_waited_for_longer_than_the_timeout(rank: int) -> None:
    started = time.monotonic()
    with pytest.raises(RuntimeError):
        TcpPair(dist.HashStore(), "alone", rank, 1 - rank, 0.3)
    assert time.monotonic() - started < 3


def test_the_address_for_others_is_on_the_way_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_towards("127.0.0.1", 1) == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert address_towards("192.0.2.1", 1) == "127.0.0.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchcard")
    with pytest.raises(OSError):
        address_towards("127.0.0.1", 1)


def test_who_waits_in_another_thread_hears_of_the_end() -> None:
    client, server = meet(dist.HashStore(), "both", timeout=30)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(server.receive, torch.empty(10, dtype=torch.uint8))
        time.sleep(0.2)
        server._end()  # as a send that fails does
        with pytest.raises(RuntimeError, match="Connection"):
            waiting.result(timeout=5)
    with pytest.raises(RuntimeError, match="Connection"):
        client.send(message(2**26))
