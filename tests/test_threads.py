"""Ranks that compute at the same time share the cores."""

import os

import pytest

from splitcom_dist.layout import Layout
from splitcom_dist.place import Place
from splitcom_dist.threads import fair_threads


@pytest.mark.parametrize(
    ("clients", "servers", "local", "of_client", "of_server"),
    [
        (1, 1, 3, 8, 8),  # they take turns
        (4, 1, 6, 2, 8),  # the server is what all wait for
        (4, 2, 7, 2, 4),
        (16, 1, 18, 1, 8),
        (4, 1, 1, 8, 8),  # every rank on a machine of its own
        (4, 2, 2, 4, 4),
    ],
)
def test_ranks_of_a_role_share_the_cores(
    clients: int, servers: int, local: int, of_client: int, of_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    layout = Layout(clients, servers, clients)
    size = layout.world_size
    places = {rank: Place(rank, size, "splitcom", rank % local, local) for rank in range(size)}
    assert fair_threads(places[0], layout) == of_client
    assert fair_threads(places[layout.first_server], layout) == of_server
