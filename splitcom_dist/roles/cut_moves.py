"""A cut moves between two rounds: what ranks tell, what the aggregator decides, and what changes hands.

The adapters of a block need not travel for it: the averaging has just given all ranks the same. What its optimizer
remembers does, along the client's edge, and both ends of the client's links begin with empty references, because the
activation at another depth is another one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import nn

from splitcom_dist.comm.circle import Ring
from splitcom_dist.cuts.measured import Measures, joined
from splitcom_dist.cuts.policy import Move, Policy, decide
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.roster import Roster
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.telemetry.records import record_event
from splitcom_dist.training import AdapterOptimizer

Blocks = Mapping[int, Sequence[nn.Parameter]]  # adapters of the shared blocks that a rank holds


def tell_measures(context: Context, step: int, measures: Measures) -> list[Move]:
    """A client's or server's word after a round; returns the aggregator's answer."""
    world, text = context.world, json.dumps(measures.take())
    world.announce(f"measured/{step}/{world.rank}", text)
    context.ledger.control(len(text))
    answer = world.wait_for(f"cuts/{step}", [world.layout.aggregator_rank], f"the cuts after step {step}")
    return [Move(**told) for told in json.loads(answer)]


def decide_moves(context: Context, step: int, policy: Policy) -> list[Move]:
    """The aggregator's side of `tell_measures`."""
    world = context.world
    ranks = [*world.layout.client_ranks, *world.layout.server_ranks]
    told = world.hear_all(f"measured/{step}", ranks, f"what was measured up to step {step}")
    moves = decide(policy, context.cuts, joined(json.loads(text) for text in told.values()))
    text = json.dumps([asdict(move) for move in moves])
    world.announce(f"cuts/{step}", text)
    context.ledger.control(len(text) * (world.layout.world_size - 1))
    return moves


def move_own(
    context: Context, step: int, moves: Sequence[Move], clients: Roster[LogicalClient], blocks: Blocks
) -> None:
    """A client rank's part: its clients take over from the server, or hand over to it, and begin their links afresh."""
    for move in moves:
        if context.world.layout.rank_of(move.client) != context.world.rank:
            continue
        client, parameters = clients[move.client], _adapters(blocks, move)
        if elements := client.optimizer.moment_elements(parameters):
            if move.new > move.old:
                moments = client.incoming["down_gradient"].take_over(step, elements)
            else:
                client.outgoing["up_activation"].hand_over(step, client.optimizer.moments(parameters))
                moments = torch.zeros(elements)  # the server remembers them now
            client.optimizer.take_moments(parameters, moments)
        _begin_afresh(client.outgoing["up_activation"], client.incoming["down_gradient"])
        record_event(context.log, step, "cut", f"client {move.client}: cut {move.old} -> {move.new} ({move.reason})")


def move_served(
    context: Context,
    step: int,
    moves: Sequence[Move],
    clients: Roster[ServedClient],
    blocks: Blocks,
    optimizer: AdapterOptimizer,
) -> None:
    """A server's part. What clients hand over joins what it remembers, each weighted by the samples behind it: had it
    served them all along, its first moments would be that mean."""
    sizes = {block: optimizer.moment_elements(blocks[block]) for block in blocks}
    sums = {block: torch.zeros(size + 1) for block, size in sizes.items()}  # and the weight
    for move in moves:
        if context.world.layout.server_of(context.world.layout.rank_of(move.client)) != context.world.rank:
            continue
        client, parameters = clients[move.client], _adapters(blocks, move)
        if elements := optimizer.moment_elements(parameters):
            if move.new > move.old:
                client.outgoing["down_gradient"].hand_over(step, optimizer.moments(parameters))
            else:
                weight = context.schedule.shard_sizes[move.client]
                moments = client.incoming["up_activation"].take_over(step, elements)
                for block, own in zip(move.blocks, moments.split([sizes[block] for block in move.blocks]), strict=True):
                    if own.any():  # else the client has not trained it yet
                        sums[block] += weight * torch.cat([own, torch.ones(1)])
        _begin_afresh(client.incoming["up_activation"], client.outgoing["down_gradient"])
    if any(move.new < move.old for move in moves):
        _merge(context, step, sums, blocks, optimizer)


def _merge(
    context: Context, step: int, sums: Mapping[int, torch.Tensor], blocks: Blocks, optimizer: AdapterOptimizer
) -> None:
    """All servers go on from the same."""
    group, schedule = context.world.groups.gradients, context.schedule
    together = torch.cat(list(sums.values()))
    if group is not None:
        context.ledger.adapters(Ring(group).sum(together, step))
    for block, whole in zip(sums, together.split([len(each) for each in sums.values()]), strict=True):
        handed, weight = whole[:-1], float(whole[-1])
        if weight:
            own = optimizer.moments(blocks[block])
            served = [client for client, cut in enumerate(context.cuts.of_clients) if cut <= block]
            before = sum(schedule.shard_sizes[client] for client in served) if own.any() else 0
            optimizer.take_moments(blocks[block], (before * own + handed) / (before + weight))


def _adapters(blocks: Blocks, move: Move) -> list[nn.Parameter]:
    return [parameter for block in move.blocks for parameter in blocks[block]]


def _begin_afresh(one: Outgoing | Incoming, other: Outgoing | Incoming) -> None:
    for end in (one, other):
        store = end.encoder.store if isinstance(end, Outgoing) else end.decoder.store
        store.clear()
        if isinstance(end, Outgoing) and end.sketches is not None:
            end.sketches.forget()
