"""Incarnations enter, ask, are admitted and are lost; what was lost stays lost."""

import torch.distributed as dist

from splitcom_dist.board import Board
from splitcom_dist.layout import Layout
from splitcom_dist.presence.membership import Membership

LAYOUT = Layout(3, 1, 3)


def memberships() -> list[Membership]:
    """As each rank sees the same board."""
    store = dist.HashStore()
    return [Membership(Board(store, rank, LAYOUT, 5.0)) for rank in range(LAYOUT.world_size)]


def test_all_take_part_at_the_start() -> None:
    *clients, _, aggregator = memberships()
    assert [client.enter() for client in clients] == [0, 0, 0]
    assert aggregator.present(LAYOUT.client_ranks) == [0, 1, 2]
    assert aggregator.waiting(LAYOUT.client_ranks) == [] and not aggregator.has_changed()


def test_a_second_process_of_a_rank_takes_the_place_of_the_first_once_it_is_admitted() -> None:
    first, _, _, server, aggregator = memberships()
    assert first.enter() == 0
    assert first.enter() == 1, "another process of rank 0"
    assert server.has_changed() and not server.has_changed()
    assert server.is_lost(0) and server.present(LAYOUT.client_ranks) == [1, 2], "whoever noticed or not"
    assert aggregator.waiting(LAYOUT.client_ranks) == [], "it has not asked yet"
    first.ask(1)
    assert aggregator.waiting(LAYOUT.client_ranks) == [0] and aggregator.asking(0) == 1
    aggregator.admit(0, 1)
    assert not server.is_lost(0) and server.is_lost(0, 0) and server.has_changed()
    assert aggregator.waiting(LAYOUT.client_ranks) == []


def test_who_is_lost_while_it_waits_is_not_admitted() -> None:
    first, _, _, _, aggregator = memberships()
    for _ in range(2):
        first.enter()
    first.ask(1)
    first.enter()
    assert aggregator.waiting(LAYOUT.client_ranks) == [], "incarnation 1 asked, and is lost"
    first.ask(2)
    assert aggregator.waiting(LAYOUT.client_ranks) == [0]


def test_two_may_say_that_somebody_is_lost() -> None:
    *_, server, aggregator = memberships()
    server.lose(1, 0)
    aggregator.lose(1, 0)
    assert aggregator.present(LAYOUT.client_ranks) == [0, 2]
