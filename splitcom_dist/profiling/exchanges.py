"""What the logs of a run hold of every exchange between a client and its server, joined from both ends' rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from splitcom_dist.analysis.logs import Rows, Run, whole
from splitcom_dist.errors import UserError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.telemetry.ledger import RECEIVED, SENT
from splitcom_dist.telemetry.records import SERVER

TRAIN = ("step", "client", "seconds", "wait")
TRAFFIC = ("step", "client", "link", "side", "wire", "t_encode", "t_send", "t_decode")
IDLE = 0.25  # of the time on the way: a server that waited for so long was free when the packet came


@dataclass(frozen=True)
class End:
    """Seconds of one end's turns, each (n,): computing, encoding its packet and decoding the other's."""

    computing: np.ndarray
    encoding: np.ndarray
    decoding: np.ndarray


@dataclass(frozen=True)
class Exchanges:
    """Of one client rank, in the order of steps and clients: a batch up and its gradient down."""

    client: End
    server: End
    up_bytes: np.ndarray
    down_bytes: np.ndarray
    on_the_way: np.ndarray  # seconds, both ways together; of a packet that found the server busy, the queue too
    found_idle: np.ndarray  # whether it did not


def exchanges_of(run: Run, client_rank: int, server_rank: int) -> Exchanges:
    """All whose rows both ends have flushed, but for the first step, in which ranks touch their memory for the first
    time. UserError if there is none."""
    at_client, at_server = _tables(run, client_rank), _tables(run, server_rank)
    up, down = LINK_CODES["up_activation"], LINK_CODES["down_gradient"]
    tables = [
        at_client["train"],
        at_server["train"],
        *(_packets(at_client["traffic"], link, side) for link, side in ((up, SENT), (down, RECEIVED))),
        *(_packets(at_server["traffic"], link, side) for link, side in ((up, RECEIVED), (down, SENT))),
    ]
    client, server, client_sent, client_got, server_got, server_sent = _matched(tables)
    if not len(client["step"]):
        raise UserError(
            f"--from {run.root}: no step behind the first in the logs of ranks {client_rank}, {server_rank}"
        )
    # Both sends count: over some transports the bytes are on the way while a rank still hands them over.
    answering = server["seconds"] - server_sent["t_send"]
    on_the_way = client_sent["t_send"] + client["wait"] - answering
    return Exchanges(
        _end(client, client_sent, client_got),
        _end(server, server_sent, server_got),
        client_sent["wire"].astype(np.float64),
        server_sent["wire"].astype(np.float64),
        on_the_way,
        server["wait"] >= IDLE * on_the_way,
    )


def optimizer_seconds(run: Run, first_server: int) -> float | None:
    """Median of what the first server's steps take beside its clients' turns; None before its second step."""
    rows = _tables(run, first_server)["train"]
    steps, place = np.unique(rows["step"], return_inverse=True)
    together = rows["client"] == SERVER
    sums = np.bincount(place, np.where(together, 1.0, -1.0) * rows["seconds"], len(steps))
    complete = np.bincount(place, together, len(steps)) > 0
    found = sums[complete & (steps > 0)]
    return float(max(0.0, np.median(found))) if len(found) else None


def _tables(run: Run, rank: int) -> Mapping[str, Rows]:
    own = [each for each in run.ranks if each.rank == rank]
    if not own:
        raise UserError(f"--from {run.root}: the log of rank {rank} is missing, or cannot be read")
    alone = Run(run.name, run.root, run.config, own, None)
    return {name: _wide(whole(alone, name, columns)) for name, columns in (("train", TRAIN), ("traffic", TRAFFIC))}


def _wide(rows: Rows) -> Rows:
    """Sums of float32 seconds are not what is wanted of them."""
    return {name: column.astype(np.float64) if column.dtype.kind == "f" else column for name, column in rows.items()}


def _packets(rows: Rows, link: int, side: int) -> Rows:
    chosen = (rows["link"] == link) & (rows["side"] == side)
    return {name: column[chosen] for name, column in rows.items()}


def _matched(tables: list[Rows]) -> list[Rows]:
    """Rows of the same steps and clients in all tables; not those of which one table has several (a resync)."""
    keys = [rows["step"].astype(np.int64) * 2**31 + rows["client"] for rows in tables]
    once = []
    for key, rows in zip(keys, tables, strict=True):
        values, counts = np.unique(key[(rows["step"] > 0) & (rows["client"] != SERVER)], return_counts=True)
        once.append(values[counts == 1])
    common = reduce(np.intersect1d, once)
    found = []
    for key, rows in zip(keys, tables, strict=True):
        order = np.argsort(key, kind="stable")
        places = order[np.searchsorted(key[order], common)]
        found.append({name: column[places] for name, column in rows.items()})
    return found


def _end(train: Rows, sent: Rows, received: Rows) -> End:
    beside = sent["t_encode"] + sent["t_send"] + received["t_decode"]
    return End(np.maximum(0.0, train["seconds"] - beside), sent["t_encode"], received["t_decode"])
