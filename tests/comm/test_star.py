"""Sums through the aggregator between real Gloo pairs: the same bits for all who are there, whoever is lost."""

import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.comm.star import Hub, Spoke

HUB, CLIENTS = 3, range(3)


def star(patience: float = 5.0) -> tuple[dict[int, GlooPair], dict[int, dict[int, GlooPair]]]:
    """The hub's pairs by rank, and each client's with the hub; all in one process, met from threads."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
    hub: dict[int, GlooPair] = {}
    spokes: dict[int, dict[int, GlooPair]] = {}

    def meet(client: int) -> None:
        spokes[client] = {HUB: GlooPair(store.clone(), f"spoke/{client}", client, HUB, 10.0)}  # type: ignore[attr-defined]

    for client in CLIENTS:
        thread = threading.Thread(target=meet, args=(client,))
        thread.start()
        hub[client] = GlooPair(store, f"spoke/{client}", HUB, client, patience)
        thread.join()
    return hub, spokes


def sums(hub: Hub, spokes: dict[int, Any], vectors: dict[int, Tensor]) -> tuple[Tensor, int, dict[int, Any]]:
    """One sum: the hub's buffer and bytes, and what every client holds afterwards, or its error."""
    results: dict[int, Any] = {}

    def give(client: int) -> None:
        buffer = vectors[client].clone()
        try:
            spokes[client].sum(buffer, 0)
            results[client] = buffer
        except Exception as error:
            results[client] = error

    threads = [threading.Thread(target=give, args=(client,)) for client in vectors]
    for thread in threads:
        thread.start()
    buffer = torch.zeros(1000)
    size = hub.sum(buffer, 0)
    for thread in threads:
        thread.join()
    return buffer, size, results


def test_all_hold_the_same_bits_in_the_order_of_ranks() -> None:
    pairs, own = star()
    announced: list[int] = []
    hub = Hub(pairs, lambda step: list(CLIENTS), lambda rank: None)
    vectors = {rank: torch.randn(1000) * 10.0**rank for rank in CLIENTS}
    total, size, held = sums(hub, {rank: Spoke(own[rank], HUB, announced.append) for rank in CLIENTS}, vectors)
    assert total.equal(torch.zeros(1000) + vectors[0] + vectors[1] + vectors[2])
    assert all(held[rank].equal(total) for rank in CLIENTS)
    assert size == 3 * 4000 and announced == [0, 0, 0]


def test_a_rank_that_never_gives_its_share_is_left_out_and_named() -> None:
    pairs, own = star(patience=1.0)
    lost: list[int] = []
    hub = Hub(pairs, lambda step: list(CLIENTS), lost.append)
    spokes = {rank: Spoke(own[rank], HUB, lambda step: None) for rank in (0, 2)}
    vectors = {rank: torch.full((1000,), float(rank + 1)) for rank in (0, 2)}
    total, size, held = sums(hub, spokes, vectors)
    assert lost == [1] and size == 2 * 4000
    assert total.equal(torch.full((1000,), 4.0)) and all(held[rank].equal(total) for rank in (0, 2))
