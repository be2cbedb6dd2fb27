"""One rank of `splitcom profile`: clients measure together, then servers, then every edge by itself; rank 0 writes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.speed import Pair, measure
from splitcom_dist.comm.transports import Transport
from splitcom_dist.config.schema import Config
from splitcom_dist.devices import device_for
from splitcom_dist.errors import SplitcomError, UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.models.sources import find_model
from splitcom_dist.place import Place
from splitcom_dist.plan.cluster import EdgeSpeed, Profile, RankSpeed, rank_from, write
from splitcom_dist.plan.workload import Batch
from splitcom_dist.profiling.batch import typical_batch
from splitcom_dist.profiling.compute import measure_rank
from splitcom_dist.threads import prepare_computing
from splitcom_dist.world import World


def profile_rank(config: Config, place: Place, out: Path | None) -> int:
    """Returns the exit code; rank 0 writes the profile to `out`. Of all ranks that fail, one prints one line."""
    try:
        layout = layout_for(config, place.world_size)
        world = World(place, layout, config.runtime.timeout_seconds, config.transport, config.runtime.link)
    except SplitcomError as error:
        if place.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        profile = _measure(config, world)
        if profile is not None and out is not None:
            write(profile, out)
            print(f"{out}: {len(profile.ranks)} ranks and {len(profile.edges)} edges")
        world.leave()
        return 0
    except (SplitcomError, OSError) as error:
        if world.report_failure():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2


def _measure(config: Config, world: World) -> Profile | None:
    """The whole profile on rank 0, None elsewhere."""
    prepare_computing(config.runtime.threads, world.place, world.layout)
    if device_for(config.runtime.device, world.place.local_rank).type != "cpu":
        raise UserError("runtime.device: only CPUs are profiled, set runtime.device=cpu")
    layout = world.layout
    source = find_model(config.model.name, config.model.dropout)
    if world.rank == 0:
        batch, tokens = typical_batch(config, source)
        world.announce("profile/batch", json.dumps([asdict(batch), tokens]))
    told, tokens = json.loads(world.wait_for("profile/batch", [0], "the choice of a batch"))
    batch = Batch(**told)
    for role in ("client", "server"):
        if layout.role_of(world.rank) == role:
            speed = measure_rank(config, source, world.rank, role, batch, tokens)
            world.announce(f"profile/rank/{world.rank}", json.dumps(asdict(speed)))
        _meet(world, role)
    edges = []
    for client, server in layout.edges():
        if world.rank in (client, server):
            channel = EdgeChannel(world.transport(client))
            with naming(layout.name_of(channel.peer), [channel.peer], "the measuring of a link"):
                pair = measure(channel, world.rank, channel.peer)
            if pair is not None:
                world.announce(f"profile/edge/{client}", json.dumps(asdict(_edge(pair))))
        _meet(world, f"{client}-{server}")
    if world.rank > 0:
        return None
    ranks = [*layout.client_ranks, *layout.server_ranks]
    speeds: list[RankSpeed] = [
        rank_from(json.loads(world.wait_for(f"profile/rank/{rank}", [rank], "its figures"))) for rank in ranks
    ]
    for client, _ in layout.edges():
        text = world.wait_for(f"profile/edge/{client}", [client], "its figures")
        edges.append(EdgeSpeed(**json.loads(text)))
    return Profile(
        config.model.name, config.model.dtype, batch.samples, batch.length, tokens, batch.targets or 0, speeds, edges
    )


class EdgeChannel:
    """An edge's transport, slow link and all, as blocking transfers."""

    def __init__(self, transport: Transport) -> None:
        self.peer = transport.peer
        self._transport = transport

    def send(self, message: Tensor, peer: int) -> None:
        self._transport.send(message)

    def receive(self, buffer: Tensor, peer: int) -> None:
        self._transport.post_receive(buffer).wait()

    def close(self) -> None:
        """Edges close with their world."""


def _edge(pair: Pair) -> EdgeSpeed:
    return EdgeSpeed(pair.first, pair.second, pair.forward, pair.backward, pair.round_trip_seconds / 2)


def _meet(world: World, where: str) -> None:
    """Nobody goes on before all are here."""
    world.sum_over_ranks(f"profile/met/{where}", torch.zeros(1, dtype=torch.int64))
