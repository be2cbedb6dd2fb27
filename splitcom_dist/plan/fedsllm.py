"""FedsLLM's delay minimisation (arXiv 2407.09250): bandwidths and learning accuracy for which training ends soonest.

K users train with two servers. In each of `a / (1 - eta)` global rounds, user k computes `I = v log2(1 / eta)` local
iterations over its samples and uploads cut activations to the main server and its adapter to the federated server, in
bands of their own that are divided by FDMA. Delay of the whole training:

    T = a / (1 - eta) · max_k (I seconds_k(f_k) + t_k),  sum_k b_sk <= B_s,  b_sk log2(1 + c_sk / b_sk) t_k >= bits_sk

At the optimum f_k = f_max and all users finish together. For a given eta and round time, Lambert's W gives every
bandwidth; the round time at which they fill the tighter band is found by bisection (Brent's). The round time is convex
in eta, so T is quasi-convex and a one-dimensional search is exact.

What the paper is not known to say is our reconstruction, and a configuration value or told here: that both uploads go
on side by side within one time t_k, each at full power; that the server's share of an iteration takes its own
frequency; all constants that are not the field's setting.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from splitcom_dist.plan.channel import Array, ChannelConfig, bandwidth_for, drop_users, gains, rate, watts

LEAST_ETA, MOST_ETA = 1e-9, 1 - 1e-9


@dataclass(frozen=True)
class FedsllmConfig:
    """The field's setting; `ours` where the paper's value is not known."""

    users: int = 50
    bandwidth_hz: float = 20e6  # of the main server
    federated_bandwidth_hz: float = 20e6  # of the federated server
    power_dbm: float = 10.0  # p_max, in each band
    frequency_hz: float = 2e9  # f_max
    cycles_low: float = 1e4  # C_k is uniform between these, per sample of the whole model
    cycles_high: float = 3e4
    samples: int = 500  # D_k
    client_share: float = 0.25  # ours: A_k, the part of an iteration's cycles that is the client's
    server_frequency_hz: float = 20e9  # ours: what the main server gives to each user's share
    activation_bits: float = 28.1e3  # ours: s, the upload of Yang et al. in the same setting
    adapter_bits: float = 28.1e3  # ours: s_c
    rounds_factor: float = 10.0  # ours: a; T is proportional to it
    iterations_factor: float = 2.0  # ours: v
    channel: ChannelConfig = field(default_factory=ChannelConfig)


@dataclass(frozen=True)
class Instance:
    """One drop of users. Arrays are (users,) or (servers, users), the main server first."""

    iteration_seconds: Array  # (users,), of one local iteration at f_max
    bits: Array  # (servers, users), of one round
    snr_hz: Array  # (servers, users), c = g p / N0
    bandwidth_hz: Array  # (servers,)
    rounds_factor: float
    iterations_factor: float

    def compute_seconds(self, eta: float) -> Array:
        """Of one global round (users,)."""
        return np.asarray(-self.iterations_factor * np.log2(eta) * self.iteration_seconds)

    def rounds(self, eta: float) -> float:
        return self.rounds_factor / (1 - eta)


@dataclass(frozen=True)
class Plan:
    """Bandwidths (servers, users) in Hz, upload times (users,) in seconds, accuracy eta, the delay T in seconds."""

    eta: float
    bandwidth_hz: Array
    upload_seconds: Array
    delay_seconds: float


def draw(config: FedsllmConfig, seed: int) -> Instance:
    """Users, channels and cycles of a seed; the servers stand together, so one gain holds for both."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 2)))
    gain = gains(config.channel, drop_users(config.channel, config.users, seed), seed)[:, 0]
    cycles = rng.uniform(config.cycles_low, config.cycles_high, config.users) * config.samples
    client, server = config.client_share * cycles, (1 - config.client_share) * cycles
    snr = gain * watts(config.power_dbm) / config.channel.noise_w_per_hz
    return Instance(
        iteration_seconds=client / config.frequency_hz + server / config.server_frequency_hz,
        bits=np.repeat([[config.activation_bits], [config.adapter_bits]], config.users, axis=1),
        snr_hz=np.stack([snr, snr]),
        bandwidth_hz=np.array([config.bandwidth_hz, config.federated_bandwidth_hz]),
        rounds_factor=config.rounds_factor,
        iterations_factor=config.iterations_factor,
    )


def solve(instance: Instance) -> Plan:
    """The optimum over eta and all bandwidths."""

    def log_delay(logit: float) -> float:
        eta = _eta(logit)
        return float(np.log(instance.rounds(eta) * round_seconds(instance, eta)))

    ends = [float(np.log(eta / (1 - eta))) for eta in (LEAST_ETA, MOST_ETA)]
    found = minimize_scalar(log_delay, bounds=ends, method="bounded", options={"xatol": 1e-7})
    return at_accuracy(instance, _eta(float(found.x)))


def at_accuracy(instance: Instance, eta: float) -> Plan:
    """The optimum over bandwidths at a given accuracy."""
    deadline = round_seconds(instance, eta)
    uploads = deadline - instance.compute_seconds(eta)
    bands = bandwidth_for(instance.bits / uploads, instance.snr_hz)
    return Plan(eta, bands, uploads, instance.rounds(eta) * deadline)


def round_seconds(instance: Instance, eta: float) -> float:
    """The shortest round at `eta`: the time at which the tighter band is just full."""
    compute = instance.compute_seconds(eta)
    # A user with the whole world's bandwidth uploads at c / ln 2; with an equal share of the band everybody arrives.
    least = float(np.max(compute + np.max(instance.bits * np.log(2) / instance.snr_hz, axis=0)))
    share = instance.bandwidth_hz[:, None] / instance.bits.shape[1]
    most = float(np.max(compute + np.max(instance.bits / rate(share, instance.snr_hz), axis=0)))

    def excess(deadline: float) -> float:
        needed = bandwidth_for(instance.bits / (deadline - compute), instance.snr_hz)
        return float(np.log(np.max(needed.sum(axis=1) / instance.bandwidth_hz)))

    if excess(most) >= 0:  # all are alike: the equal share is the optimum
        return most
    low = least + 1e-9 * (most - least)
    while excess(low) <= 0:  # the best user's limit lies within rounding of the optimum
        low = least + (low - least) / 1e3
    return float(brentq(excess, low, most, xtol=1e-15 * most, rtol=1e-13))


def delay(instance: Instance, eta: float, bandwidth_hz: Array) -> float:
    """T in seconds of any accuracy and bandwidths (servers, users), all at f_max."""
    uploads = np.max(instance.bits / rate(bandwidth_hz, instance.snr_hz), axis=0)
    return instance.rounds(eta) * float(np.max(instance.compute_seconds(eta) + uploads))


def best_accuracy(instance: Instance, bandwidth_hz: Array) -> float:
    """The eta at which T is least for given bandwidths (servers, users)."""
    ends = [float(np.log(eta / (1 - eta))) for eta in (LEAST_ETA, MOST_ETA)]
    found = minimize_scalar(
        lambda logit: np.log(delay(instance, _eta(logit), bandwidth_hz)), bounds=ends, method="bounded"
    )
    return _eta(float(found.x))


def _eta(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))
