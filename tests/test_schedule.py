"""The order of transfers is the same on both ends, for every layout, and cannot deadlock."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom_dist.attendance import Attendance, Mode
from splitcom_dist.config.schema import Config, FedConfig, RestConfig, RolesConfig
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.links import LINKS, STANDARD, U_SHAPE, is_upward
from splitcom_dist.roles.pipeline import groups
from splitcom_dist.schedule import Schedule


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    client_ranks = draw(st.integers(1, 6))
    server_ranks = draw(st.integers(1, min(3, client_ranks)))
    clients = draw(st.integers(client_ranks, 3 * client_ranks))
    sizes = draw(st.lists(st.integers(1, 30), min_size=clients, max_size=clients))
    return Schedule(
        Layout(client_ranks, server_ranks, clients, server_shards=draw(st.integers(1, 3))),
        tuple(sizes),
        batch_size=draw(st.integers(1, 8)),
        epochs=draw(st.integers(1, 3)),
        round_steps=draw(st.integers(1, 7)),
        eval_epochs=draw(st.integers(1, 3)),
        decides_by_rounds=draw(st.booleans()),
        tails_train=draw(st.booleans()),
        attendance=Attendance(
            RestConfig(
                policy=draw(st.sampled_from(["never", "every_k", "freeze_after"])),
                every=draw(st.integers(2, 3)),
                epochs=draw(st.integers(0, 2)),
            )
        ),
        participation=draw(st.sampled_from([1.0, 0.5, 0.1])),
        seed=draw(st.integers(0, 3)),
        micro_batches=draw(st.integers(1, 4)),
    )


Operation = tuple[str, object]
PASSES = ("pass", "forward", "backward")  # of a batch through the body, by all shards of a server
# What crosses before and after which pass, in the standard and in the U-shape.
BEFORE = {("up_activation", False): "pass", ("up_activation", True): "forward", ("up_gradient", True): "backward"}
AFTER = {("down_gradient", False): "pass", ("down_activation", True): "forward", ("down_gradient", True): "backward"}


Late = frozenset[tuple[int, int]]  # turns, (client, step), in whose place a client tells its absence


def exchanges(schedule: Schedule, rank: int, step: int, u_shape: bool, late: Late, overlaps: bool) -> list[Operation]:
    """The transfers of one rank in one step: two a micro-batch, in the U-shape four; fewer while heads rest, one of a
    late client, whose first packet tells the server that no other follows. Of micro-batches under way together all do
    the first before any does the next."""
    every = active_links(schedule.mode(step), u_shape)

    def is_late(client: int) -> bool:
        return (client, step) in late and every[:1] == LINKS[:1]

    if rank in schedule.layout.client_ranks:
        operations: list[Operation] = []
        for client in schedule.turns(step, rank):
            if is_late(client):
                operations.append((every[0], (client, step, 0)))
                continue
            for together in groups(schedule.micro_batches_of(client, step), overlaps):
                up, down = every[:1] if every[:1] == LINKS[:1] else (), every[every[:1] == LINKS[:1] :]
                stages = (up, down[:2], down[2:]) if u_shape else (up, down)
                operations += [(link, (client, step, part)) for links in stages for part in together for link in links]
        return operations
    operations = []
    for wave in schedule.waves(step, schedule.layout.leader_of(rank)):
        counts = {client: schedule.micro_batches_of(client, step) for client in wave}
        for together in groups(max(counts.values(), default=0), overlaps):
            for stage in ("forward", "backward") if u_shape else ("pass",):  # once through the wave for each
                for part in together:
                    for client in wave:
                        if is_late(client) and (stage == "backward" or part):
                            continue
                        if part >= counts[client]:
                            continue
                        links, turn = (every[:1] if is_late(client) else every), (client, step, part)
                        operations += [(link, turn) for link in links if BEFORE.get((link, u_shape)) == stage]
                        if not is_late(client):
                            operations.append((stage, turn))
                        operations += [(link, turn) for link in links if AFTER.get((link, u_shape)) == stage]
    if rank not in schedule.layout.server_ranks:  # its leader alone has edges
        operations = [operation for operation in operations if operation[0] not in LINKS]
    return operations


def active_links(mode: Mode, u_shape: bool) -> tuple[str, ...]:
    """The links on which something crosses, in the order of a step."""
    if mode is Mode.REST:
        return U_SHAPE[1:3] if u_shape else ()
    if mode is Mode.TELL and u_shape:
        return U_SHAPE[:3]  # in the standard shape an acknowledgement comes down
    return U_SHAPE if u_shape else STANDARD


def program(schedule: Schedule, rank: int, u_shape: bool, late: Late, overlaps: bool) -> list[Operation]:
    """Everything a rank waits for, in its order: the roles' `run`."""
    layout = schedule.layout
    operations: list[Operation] = [("verdict", -1)]
    for step in range(schedule.total_steps):
        if rank != layout.aggregator_rank:
            operations += exchanges(schedule, rank, step, u_shape, late, overlaps)
        if rank in layout.body_ranks and len(layout.body_ranks) > 1:
            operations.append(("gradients", step))
        if schedule.averages_after(step) and rank not in layout.body_ranks:
            operations.append(("average", step))
        if schedule.evaluates_after(step) and rank in (layout.first_server, layout.aggregator_rank):
            operations.append(("adapter", step))
        if schedule.decides_after(step):
            operations.append(("verdict", step))
    return operations


def participants(schedule: Schedule, operation: Operation) -> set[int]:
    layout, (kind, key) = schedule.layout, operation
    if kind in LINKS:
        assert isinstance(key, tuple)
        rank = layout.rank_of(key[0])
        return {rank, layout.server_of(rank)}
    if kind in PASSES:
        assert isinstance(key, tuple)
        return set(layout.shards_of(layout.server_of(layout.rank_of(key[0]))))
    if kind == "adapter":
        return {layout.first_server, layout.aggregator_rank}
    if kind == "gradients":
        return set(layout.body_ranks)
    if kind == "average":
        return {*layout.client_ranks, layout.aggregator_rank}
    return set(range(layout.world_size))


@settings(max_examples=150, deadline=None)
@given(
    schedule=schedules(),
    u_shape=st.booleans(),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
    overlaps=st.booleans(),
)
def test_no_layout_deadlocks_even_if_every_transfer_is_a_rendezvous(
    schedule: Schedule, u_shape: bool, share: float, seed: int, overlaps: bool
) -> None:
    """Run all ranks' programs; an operation happens only when every participant has come to it. Where packets overlap
    their sender goes on at once, and they arrive in the order in which they were sent."""
    world = range(schedule.layout.world_size)
    is_late = np.random.default_rng(seed).random((schedule.layout.clients, schedule.total_steps)) < share
    late = frozenset((client, step) for client, step in np.argwhere(is_late).tolist())
    programs = {rank: program(schedule, rank, u_shape, late, overlaps) for rank in world}
    done = dict.fromkeys(world, 0)
    sent: dict[tuple[int, ...], list[Operation]] = {}  # by sender and receiver
    while any(done[rank] < len(programs[rank]) for rank in world):
        progress = False
        for rank in world:
            if done[rank] == len(programs[rank]):
                continue
            operation = programs[rank][done[rank]]
            if overlaps and operation[0] in LINKS:
                (other,) = participants(schedule, operation) - {rank}
                if is_upward(operation[0]) == (rank in schedule.layout.client_ranks):
                    sent.setdefault((rank, other), []).append(operation)
                elif (way := sent.get((other, rank))) and way[0] == operation:
                    way.pop(0)
                else:
                    continue
                progress = True
                done[rank] += 1
                continue
            present = [
                other
                for other in participants(schedule, operation)
                if done[other] < len(programs[other]) and programs[other][done[other]] == operation
            ]
            if set(present) == participants(schedule, operation):
                progress = True
                for other in present:
                    done[other] += 1
        assert progress, {rank: programs[rank][done[rank] :][:1] for rank in world}


@given(schedule=schedules())
def test_waves_serve_every_active_client_once_and_no_rank_twice_in_a_wave(schedule: Schedule) -> None:
    layout = schedule.layout
    for step in range(schedule.steps_per_epoch):
        waves = [wave for server in layout.server_ranks for wave in schedule.waves(step, server)]
        assert sorted(client for wave in waves for client in wave) == schedule.active_clients(step)
        assert all(len({layout.rank_of(client) for client in wave}) == len(wave) for wave in waves)


@given(schedule=schedules())
def test_an_epoch_visits_every_sample_exactly_once_if_all_take_part(schedule: Schedule) -> None:
    schedule = replace(schedule, participation=1.0)
    for client, size in enumerate(schedule.shard_sizes):
        visited = []
        for step in range(schedule.steps_per_epoch):
            if client in schedule.active_clients(step):
                visited += schedule.batch(range(size), client, step, seed=1)
        assert sorted(visited) == list(range(size))


@given(schedule=schedules())
def test_a_round_draws_its_share_of_those_who_have_a_batch_at_its_beginning(schedule: Schedule) -> None:
    everybody = replace(schedule, participation=1.0)
    begins = True
    for step in range(schedule.total_steps):
        if begins:
            waiting, drawn = everybody.active_clients(step), schedule.active_clients(step)
            share = max(1, round(schedule.participation * len(schedule.shard_sizes)))
            assert len(drawn) == min(len(waiting), share) and set(drawn) <= set(waiting)
        assert schedule.active_clients(step) == [
            client for client in everybody.active_clients(step) if client in drawn or schedule.participation == 1
        ]
        begins = (step + 1) % schedule.round_steps == 0 or (step + 1) % schedule.steps_per_epoch == 0


def test_draws_differ_by_round_epoch_and_seed_and_reach_everybody_alike() -> None:
    schedule = Schedule(Layout(2, 1, 10), (8,) * 10, 1, 50, 4, 1, participation=0.3, seed=5)
    rounds = {tuple(schedule.active_clients(step)) for step in range(0, schedule.total_steps, 4)}
    assert len(rounds) > 50, "100 rounds, 120 threes of ten: drawn anew for each"
    counts = np.bincount([client for step in range(0, 400, 4) for client in schedule.active_clients(step)])
    assert counts.sum() == 300 and counts.min() > 15 and counts.max() < 45  # 30 +- 4.6 each
    assert schedule.active_clients(0) != replace(schedule, seed=6).active_clients(0)


@given(schedule=schedules())
def test_every_epoch_that_trains_ends_with_an_average_and_the_run_with_an_evaluation(schedule: Schedule) -> None:
    for epoch in range(schedule.epochs):
        last = (epoch + 1) * schedule.steps_per_epoch - 1
        trains = schedule.tails_train or schedule.mode(last) is Mode.TRAIN
        assert schedule.averages_after(last) is trains
    assert schedule.evaluates_after(schedule.total_steps - 1)


def test_epochs_differ_in_order_and_seeds_too() -> None:
    schedule = Schedule(Layout(1, 1, 1), (64,), 64, 3, 1, 1)
    orders = {tuple(schedule.batch(range(64), 0, step, seed)) for step in range(3) for seed in (1, 2)}
    assert len(orders) == 6


def test_every_logical_client_has_one_rank_and_one_server() -> None:
    layout = Layout(client_rank_count=3, server_rank_count=2, clients=8)
    owned = [client for rank in layout.client_ranks for client in layout.clients_of(rank)]
    assert sorted(owned) == list(range(8))
    assert all(client in layout.clients_of(layout.rank_of(client)) for client in range(8))
    assert [layout.role_of(rank) for rank in range(6)] == ["client"] * 3 + ["server"] * 2 + ["aggregator"]


def test_a_rank_of_very_many_clients_has_a_short_name() -> None:
    layout = Layout(client_rank_count=2, server_rank_count=1, clients=1000)
    assert layout.name_of(1) == "rank 1 (client 1,3,5,..,999)"


@pytest.mark.parametrize(("size", "mend"), [(4, "roles.client_ranks=2"), (2, "smallest layout has 3 ranks")])
def test_a_world_of_another_size_names_a_layout_that_fits(size: int, mend: str) -> None:
    config = Config(roles=RolesConfig(client_ranks=3), fed=FedConfig(clients=3))
    with pytest.raises(UserError, match=mend):
        layout_for(config, size)
    assert layout_for(config, 5).world_size == 5


@pytest.mark.parametrize(("size", "clients", "servers"), [(7, 4, 2), (5, 2, 2), (4, 2, 1)])
def test_a_layout_that_fits_keeps_its_servers_while_each_has_a_client_rank(
    size: int, clients: int, servers: int
) -> None:
    config = Config(roles=RolesConfig(client_ranks=3, server_ranks=2), fed=FedConfig(clients=3))
    with pytest.raises(UserError, match=f"client_ranks={clients} roles.server_ranks={servers}"):
        layout_for(config, size)


def test_the_shards_of_a_server_follow_their_leader_who_alone_has_edges() -> None:
    layout = Layout(client_rank_count=3, server_rank_count=2, clients=3, server_shards=3)
    assert layout.world_size == 10 and list(layout.server_ranks) == [3, 6]
    roles = ["client"] * 3 + ["server", "shard", "shard"] * 2 + ["aggregator"]
    assert [layout.role_of(rank) for rank in range(10)] == roles
    assert [layout.leader_of(rank) for rank in layout.body_ranks] == [3, 3, 3, 6, 6, 6]
    assert [*layout.shards_of(6)] == [6, 7, 8]
    assert layout.edges() == [(0, 3), (1, 6), (2, 3)]
    assert layout.one_of([3, 8]) == "rank 3 (server 0, shard 0) or rank 8 (server 1, shard 2)"


@pytest.mark.parametrize(
    ("size", "clients", "servers", "shards"), [(8, 3, 2, 2), (7, 2, 2, 2), (6, 3, 1, 2), (4, 1, 1, 2), (3, 1, 1, 1)]
)
def test_a_layout_that_fits_keeps_its_shards_before_its_servers(
    size: int, clients: int, servers: int, shards: int
) -> None:
    roles = RolesConfig(client_ranks=4, server_ranks=2, server_shards=2)
    with pytest.raises(UserError) as error:
        layout_for(Config(roles=roles, fed=FedConfig(clients=4)), size)
    keys = f"set roles.client_ranks={clients} roles.server_ranks={servers} roles.server_shards={shards}"
    assert str(error.value).endswith(keys) and "roles.server_shards=2 need 9" in str(error.value)
    assert Layout(clients, servers, 4, shards).world_size == size
