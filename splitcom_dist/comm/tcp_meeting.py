"""How the two ends of an edge come to a TCP connection: the server listens and tells where, the client connects.

So a client needs no port that others can reach, only a way out to its server. Who connects says a word that the store
keeps for this pair: a stranger at the port is shown out.
"""

import fcntl
import os
import secrets
import socket
import struct
import time
from datetime import timedelta

import torch.distributed as dist

WORD_BYTES = 16
GIVE_ADDRESS = 0x8915  # SIOCGIFADDR, of Linux: an interface's IPv4 address


def address_towards(host: str, port: int) -> str:
    """This host's address on the interface that GLOO_SOCKET_IFNAME names, or where it goes out to reach `host`.

    Raises OSError if there is none.
    """
    family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        if name := os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]:
            request = struct.pack("256s", name.encode()[:15])
            return socket.inet_ntoa(fcntl.ioctl(probe, GIVE_ADDRESS, request)[20:24])
        probe.connect(target)  # sends nothing: asks the routing table
        return str(probe.getsockname()[0])


def accept(store: dist.Store, key: str, host: str, deadline: float) -> socket.socket:
    """Listen, tell under `key` where, and wait for who knows the word. Raises OSError at the deadline."""
    word = secrets.token_bytes(WORD_BYTES)
    family = socket.getaddrinfo(host, 0)[0][0]
    with socket.create_server((host, 0), family=family) as listener:
        store.set(key, f"{host} {listener.getsockname()[1]} {word.hex()}")
        while True:
            listener.settimeout(_left(deadline))
            connection, _ = listener.accept()
            if _said(connection, deadline) == word:
                return connection
            connection.close()


def connect(store: dist.Store, key: str, deadline: float) -> socket.socket:
    """Connect to whoever listens under `key`, and say the word. Raises OSError, or RuntimeError at the deadline."""
    store.wait([key], timedelta(seconds=_left(deadline)))
    host, port, word = store.get(key).decode().split()
    connection = socket.create_connection((host, int(port)), timeout=_left(deadline))
    connection.sendall(bytes.fromhex(word))
    return connection


def _said(connection: socket.socket, deadline: float) -> bytes:
    """What whoever has connected says first; nothing if he takes too long or leaves."""
    said = b""
    try:
        while len(said) < WORD_BYTES:
            connection.settimeout(min(1.0, _left(deadline)))
            if not (more := connection.recv(WORD_BYTES - len(said))):
                break
            said += more
    except OSError:
        return b""
    return said


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("nobody came")
    return left
