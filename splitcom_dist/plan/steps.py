"""How long a step takes in the standard shape: the turns of clients and server as the schedule orders them, on a clock.

A client computes its head, encodes and sends; the server takes its clients one after the other, wave by wave; the
gradient goes back and the client steps. A client does not wait for the server's optimizer, and begins its next turn
while the server serves others. The uplink of a client rank carries one message after the other; so does its downlink.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientRank:
    """Seconds of one turn of one of its logical clients, bytes of its packets, and its edge."""

    turns: int  # logical clients, each of which has a turn in every step
    before: float  # head forward and encoding
    after: float  # decoding, head backward and optimizer
    up_bytes: float
    down_bytes: float
    up: float  # bytes a second
    down: float
    latency: float  # seconds, one way

    def averaging_seconds(self, size: float) -> float:
        """The adapters go up and come down."""
        return size / self.up + size / self.down + 2 * self.latency


@dataclass(frozen=True)
class ServerRank:
    clients: Sequence[int]  # its client ranks
    serve: float  # decoding, body forward and backward, encoding: one client's batch
    optimizer: float


@dataclass
class _Clock:
    """When a client rank, its uplink and its downlink are free."""

    ready: float = 0.0
    up: float = 0.0
    down: float = 0.0


@dataclass(frozen=True)
class Course:
    """What a run is made of, apart from evaluations."""

    clients: Sequence[ClientRank]
    servers: Sequence[ServerRank]
    steps: int
    round_steps: int  # steps between two averagings
    adapter_bytes: float  # of one client

    def seconds(self) -> float:
        """Of all steps and averagings, until the last client is done."""
        clocks = [_Clock() for _ in self.clients]
        free = [0.0] * len(self.servers)
        for step in range(1, self.steps + 1):
            for number, server in enumerate(self.servers):
                free[number] = self._serve(server, clocks, free[number])
            free = [max(free) + server.optimizer for server in self.servers]  # servers sum their gradients
            if step % self.round_steps == 0 or step == self.steps:
                together = max(clock.ready for clock in clocks)
                slowest = max(client.averaging_seconds(self.adapter_bytes) for client in self.clients)
                for clock in clocks:
                    clock.ready = together + slowest
        return max(clock.ready for clock in clocks)

    def _serve(self, server: ServerRank, clocks: list[_Clock], free: float) -> float:
        """One step of a server; returns when its last gradient is on its way."""
        for wave in range(max(self.clients[rank].turns for rank in server.clients)):
            for rank in server.clients:
                client, clock = self.clients[rank], clocks[rank]
                if wave < client.turns:
                    clock.up = max(clock.up, clock.ready + client.before) + client.up_bytes / client.up
                    free = max(free, clock.up + client.latency) + server.serve
                    clock.down = max(clock.down, free) + client.down_bytes / client.down
                    clock.ready = clock.down + client.latency + client.after
        return free
