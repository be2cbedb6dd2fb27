"""Which client gets which subchannel: greedily, as SflLLM does (the next one to the slowest client).

That single moves and swaps follow while they help, from several beginnings, is ours: from the greedy one alone they end
up to a quarter behind the best of all assignments.
"""

from collections.abc import Callable, Iterator

import numpy as np

from splitcom_dist.plan.channel import Array
from splitcom_dist.plan.subchannels import Allocation, Band, Demand, Owners, best_power

LEAST_GAIN = 1e-4  # relative, that makes a move or swap worth it
SHAKES = 8  # beginnings besides the greedy one


def greedy(band: Band, offsets: Array, bits: float) -> Owners:
    """The best subchannel to every client, the weakest first, then always one more to the slowest, at even power."""
    owners = np.full(band.subchannels, -1)
    even = band.total_power_w / band.subchannels
    for client in np.argsort(band.snr_per_w.mean(axis=1)):
        owners[_best_free(band, owners, client)] = client
    while (owners < 0).any():
        counts = np.bincount(owners[owners >= 0], minlength=band.clients)
        power = np.minimum(band.client_power_w / counts, even)
        rates = [
            band.width_hz * np.sum(np.log2(1 + band.snr_per_w[client, owners == client] * power[client]))
            for client in range(band.clients)
        ]
        slowest = int(np.argmax(offsets + bits / np.array(rates)))
        owners[_best_free(band, owners, slowest)] = slowest
    return owners


def allocate(band: Band, offsets: Array, bits: float) -> Allocation:
    """Greedy owners with their best power, then every move or swap that helps, until none does; likewise from owners
    shaken at random, of which the best stay."""
    best = _descend(band, greedy(band, offsets, bits), offsets, bits)
    rng = np.random.default_rng(0)
    for _ in range(SHAKES):
        owners = best.owners.copy()
        shaken = rng.permutation(band.subchannels)[: max(3, band.subchannels // 4)]
        owners[shaken] = rng.integers(band.clients, size=len(shaken))
        if len(np.unique(owners)) == band.clients:
            other = _descend(band, owners, offsets, bits)
            if other.finish(offsets, bits) < best.finish(offsets, bits):
                best = other
    return best


def _descend(band: Band, owners: Owners, offsets: Array, bits: float) -> Allocation:
    best, helped = best_power(band, owners, offsets, bits), True
    while helped:
        helped = False
        for change in _changes(band):
            owners = change(best.owners)
            if len(np.unique(owners)) < band.clients:
                continue
            sooner = best.finish(offsets, bits) * (1 - LEAST_GAIN)
            if Demand(band, owners, offsets, bits).share_of_caps(sooner) < 1:
                best, helped = best_power(band, owners, offsets, bits), True
    return best


def _best_free(band: Band, owners: Owners, client: int) -> int:
    return int(np.argmax(np.where(owners < 0, band.snr_per_w[client], -np.inf)))


def _changes(band: Band) -> Iterator[Callable[[Owners], Owners]]:
    """Every subchannel to every other client, and every two subchannels' owners exchanged."""
    for place in range(band.subchannels):
        for client in range(band.clients):
            yield lambda owners, place=place, client=client: np.where(  # type: ignore[misc]
                np.arange(len(owners)) == place, client, owners
            )
    for first in range(band.subchannels):
        for second in range(first):
            order = np.arange(band.subchannels)
            order[[first, second]] = [second, first]
            yield lambda owners, order=order: owners[order]  # type: ignore[misc]
