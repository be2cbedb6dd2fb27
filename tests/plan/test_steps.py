"""The clock of a step against hand-made cases."""

from dataclasses import replace

import pytest

from splitcom_dist.plan.steps import ClientRank, Course, ServerRank

CLIENT = ClientRank(turns=1, before=1.0, after=2.0, up_bytes=30, down_bytes=20, up=10, down=5, latency=0.5)
ONE_TURN = 1 + 30 / 10 + 0.5 + 4 + 20 / 5 + 0.5 + 2  # with 4 seconds at the server


def course(clients: list[ClientRank], steps: int = 1, optimizer: float = 0.0, round_steps: int = 100) -> Course:
    server = ServerRank(range(len(clients)), serve=4.0, optimizer=optimizer)
    return Course(clients, [server], steps, round_steps, adapter_bytes=0.0)


def averaging(clients: list[ClientRank]) -> float:
    return max(client.averaging_seconds(0.0) for client in clients)


def test_one_client_waits_for_every_part_of_its_turn() -> None:
    assert course([CLIENT]).seconds() == pytest.approx(ONE_TURN + averaging([CLIENT]))
    assert course([CLIENT], steps=3).seconds() == pytest.approx(3 * ONE_TURN + averaging([CLIENT]))


def test_the_servers_optimizer_hides_behind_the_way_to_the_client_and_back() -> None:
    hidden = 20 / 5 + 0.5 + 2 + 1 + 30 / 10 + 0.5
    assert course([CLIENT], 3, hidden).seconds() == pytest.approx(course([CLIENT], 3).seconds())
    assert course([CLIENT], 3, hidden + 1).seconds() == pytest.approx(course([CLIENT], 3).seconds() + 2)


def test_two_clients_overlap_but_for_the_server() -> None:
    """The second arrives with the first, is served after it, and its way back is its own."""
    assert course([CLIENT, CLIENT]).seconds() == pytest.approx(ONE_TURN + 4 + averaging([CLIENT]))


def test_logical_clients_of_a_rank_take_turns() -> None:
    twice = replace(CLIENT, turns=2)
    assert course([twice]).seconds() == pytest.approx(2 * ONE_TURN + averaging([CLIENT]))


def test_averagings_carry_the_adapter_up_and_down_after_every_round_and_at_the_end() -> None:
    plain = course([CLIENT], steps=5)
    with_adapters = replace(plain, round_steps=2, adapter_bytes=100.0)
    each = 100 / 10 + 100 / 5 + 2 * 0.5
    assert with_adapters.seconds() == pytest.approx(5 * ONE_TURN + 3 * each)


def test_more_of_anything_that_helps_never_takes_longer() -> None:
    clients = [CLIENT, replace(CLIENT, turns=2, up=3.0), replace(CLIENT, before=0.1)]
    base = course(clients, steps=7, optimizer=1.0, round_steps=3).seconds()
    for better in ({"up": 30.0}, {"down": 30.0}, {"latency": 0.1}, {"before": 0.05}, {"after": 0.5}, {"up_bytes": 3}):
        faster = [replace(client, **better) for client in clients]
        assert course(faster, steps=7, optimizer=1.0, round_steps=3).seconds() < base


def test_two_servers_share_the_clients_and_wait_for_each_other() -> None:
    servers = [ServerRank([0], 4.0, 0.0), ServerRank([1], 4.0, 0.0)]
    both = Course([CLIENT, CLIENT], servers, 1, 100, 0.0)
    assert both.seconds() == pytest.approx(ONE_TURN + averaging([CLIENT])), "each has a server of its own"
    late = Course([CLIENT, replace(CLIENT, before=50.0)], servers, 2, 100, 0.0)
    assert late.seconds() == pytest.approx(2 * (ONE_TURN + 49) + averaging([CLIENT]))
