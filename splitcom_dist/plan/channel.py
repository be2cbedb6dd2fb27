"""The radio channel of the papers: users dropped at random, path loss, shadowing, and Shannon rates over a band.

FedsLLM divides a band among users (FDMA), SflLLM into subchannels of equal width. The field's setting, as far as known:
500 m x 500 m, path loss 128.1 + 37.6 log10 d[km] dB, 8 dB log-normal shadowing, noise of -174 dBm/Hz. That the servers
stand in the middle of the square, and the least distance, are ours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import lambertw

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelConfig:
    square_m: float = 500.0  # side of the square that users are dropped in
    least_distance_m: float = 10.0
    path_loss_1km_db: float = 128.1
    path_loss_decade_db: float = 37.6  # for every factor of ten in distance
    shadowing_db: float = 8.0  # standard deviation
    noise_dbm_per_hz: float = -174.0
    fading: bool = False  # Rayleigh, apart for every subchannel: no known part of either paper

    @property
    def noise_w_per_hz(self) -> float:
        return watts(self.noise_dbm_per_hz)


def watts(dbm: float) -> float:
    return float(10 ** (dbm / 10 - 3))


def drop_users(config: ChannelConfig, users: int, seed: int) -> Array:
    """Distances (users,) in metres from the middle of the square."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    places = (rng.random((users, 2)) - 0.5) * config.square_m
    return np.asarray(np.maximum(np.hypot(*places.T), config.least_distance_m))


def gains(config: ChannelConfig, distances_m: Array, seed: int, subchannels: int = 1) -> Array:
    """Power gains (users, subchannels), linear; shadowing is a user's, fading a subchannel's."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    loss_db = config.path_loss_1km_db + config.path_loss_decade_db * np.log10(distances_m / 1e3)
    loss_db = loss_db + config.shadowing_db * rng.standard_normal(len(distances_m))
    power = rng.exponential(size=(len(distances_m), subchannels)) if config.fading else 1.0
    return np.asarray(10 ** (-loss_db / 10)[:, None] * np.broadcast_to(power, (len(distances_m), subchannels)))


def rate(bandwidth_hz: Array | float, snr_hz: Array | float) -> Array:
    """Bits per second b log2(1 + c / b), with c = g p / N0 in Hz; 0 where b is 0."""
    band = np.asarray(bandwidth_hz, dtype=float)
    ratio = np.divide(snr_hz, band, out=np.zeros(np.broadcast(band, snr_hz).shape), where=band > 0)
    return np.asarray(band * np.log1p(ratio) / np.log(2))


def bandwidth_for(bits_per_s: Array, snr_hz: Array) -> Array:
    """The band in Hz at which `rate` is `bits_per_s`; inf where no band is enough (rate c / ln 2 at most).

    With x = c / b the rate equation is ln(1 + x) / x = q, q = r ln 2 / c: so 1 + x = -W(-q e^-q) / q on Lambert's lower
    branch (the principal one gives x = 0).
    """
    share = np.asarray(bits_per_s * np.log(2) / snr_hz, dtype=float)
    inside = np.clip(share, 1e-12, 1 - 1e-9)
    ratio = -lambertw(-inside * np.exp(-inside), -1).real / inside - 1
    ratio = np.where(inside > 1 - 1e-5, 2 * (1 - inside) + 8 / 3 * (1 - inside) ** 2, ratio)  # W loses digits at -1/e
    for _ in range(2):  # Newton
        ratio = ratio - (np.log1p(ratio) - inside * ratio) / (1 / (1 + ratio) - inside)
    return np.where(share < 1, snr_hz / np.maximum(ratio, 1e-300), np.inf)
