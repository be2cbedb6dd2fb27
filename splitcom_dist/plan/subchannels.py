"""Subchannels of a band to clients, and power on them, so that the slowest client is done soonest.

Client k has worked for `offsets[k]` seconds and then uploads `bits`: it is done after offsets[k] + bits / rate_k. For
given owners of the subchannels the best power is exact: a finishing time demands a rate of every client, water-filling
is the least power that gives it, and the earliest time that stays within both caps is found by bisection (Brent's).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from splitcom_dist.plan.channel import Array

Owners = NDArray[np.int64]
MOST_SPECTRAL_RATE = 900.0  # bits per second and Hz; 2 to that power is still a float


@dataclass(frozen=True)
class Band:
    """The subchannels to one server."""

    snr_per_w: Array  # (clients, subchannels): gain / (noise of a subchannel)
    width_hz: float  # of each subchannel
    client_power_w: float  # cap for each client
    total_power_w: float  # cap for all together

    @property
    def clients(self) -> int:
        return int(self.snr_per_w.shape[0])

    @property
    def subchannels(self) -> int:
        return int(self.snr_per_w.shape[1])

    def rates(self, owners: Owners, power_w: Array) -> Array:
        """Bits per second (clients,) of power (subchannels,)."""
        own = self.snr_per_w[owners, np.arange(len(owners))]
        each = self.width_hz * np.log1p(own * power_w) / np.log(2)
        return np.asarray(np.bincount(owners, weights=each, minlength=self.clients), dtype=float)


@dataclass(frozen=True)
class Allocation:
    """Owner and power in watts of every subchannel, and what it gives."""

    owners: Owners
    power_w: Array
    rates: Array  # (clients,), bits per second

    def finish(self, offsets: Array, bits: float) -> float:
        """Seconds until the last client is done."""
        return float(np.max(offsets + bits / self.rates))


def even_power(band: Band, owners: Owners) -> Array:
    """As much as both caps allow, alike on a client's subchannels and on all."""
    own = band.client_power_w / np.bincount(owners, minlength=band.clients)[owners]
    return np.asarray(np.minimum(own, band.total_power_w / band.subchannels))


class Demand:
    """What the owners of the subchannels, one at least to each client, need in power to be done by a given time."""

    def __init__(self, band: Band, owners: Owners, offsets: Array, bits: float) -> None:
        own = owners[None, :] == np.arange(band.clients)[:, None]
        noise = np.sort(np.where(own, 1 / band.snr_per_w, np.inf), axis=1)  # of each client, the best first
        self._band, self._offsets, self._bits, self._noise = band, offsets, bits, noise
        self._total, self._log2 = np.cumsum(noise, axis=1), np.cumsum(np.log2(noise), axis=1)
        self._counts, self._rows = np.arange(1, noise.shape[1] + 1), np.arange(band.clients)

    def least_power(self, finish: float) -> tuple[Array, Array]:
        """Watts and water levels (clients,) with which every client is done at `finish` seconds."""
        spectral = self._bits / (finish - self._offsets) / self._band.width_hz
        exponents = (np.minimum(spectral, MOST_SPECTRAL_RATE)[:, None] + self._log2) / self._counts
        levels = np.exp2(np.minimum(exponents, 1000.0))
        used = np.maximum(np.sum((levels > self._noise) & np.isfinite(self._noise), axis=1) - 1, 0)
        level = levels[self._rows, used]
        return self._counts[used] * level - self._total[self._rows, used], level

    def share_of_caps(self, finish: float) -> float:
        """Of the cap that is nearer; above 1 where no power within both is enough."""
        if finish <= np.max(self._offsets):
            return np.inf
        power = self.least_power(finish)[0]
        return float(max(np.max(power) / self._band.client_power_w, np.sum(power) / self._band.total_power_w))


def best_power(band: Band, owners: Owners, offsets: Array, bits: float) -> Allocation:
    """The power that ends soonest for these owners, each of whom has a subchannel at least."""
    demand, latest = Demand(band, owners, offsets, bits), float(np.max(offsets))

    def excess(log_time: float) -> float:
        return float(np.log(demand.share_of_caps(latest + np.exp(log_time))))

    even = band.rates(owners, even_power(band, owners))
    high = float(np.log(np.max(offsets + bits / even) - latest))
    low = high - 1.0
    while excess(low) <= 0:
        high, low = low, low - 1.0
    best = float(brentq(excess, low, high, xtol=1e-12)) if excess(high) < 0 else high
    levels = demand.least_power(latest + np.exp(best))[1]
    power = np.maximum(levels[owners] - 1 / band.snr_per_w[owners, np.arange(len(owners))], 0.0)
    return Allocation(owners, power, band.rates(owners, power))
