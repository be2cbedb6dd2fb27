"""SflLLM's problem (arXiv 2504.14667): subchannels, power, split point and LoRA rank for which training ends soonest.

With split mu and rank r, I local steps a global round and E(r) rounds:

    T = E(r) · ( I · ( max_k (forward_k + activation / R_k) + server + max_k backward_k ) + max_k adapter / Q_k )

R_k and Q_k are client k's rates to the main and the federated server. Work and bits come from workload.py, E(r) from
runs of this project (rounds.py). What the paper is not known to say is our reconstruction: that gradients come down in
no time, that the clients' steps are taken by the main server one after the other, that each server has a band and power
caps of its own, and all figures of the default setting but GPT-2 small's five clients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from splitcom_dist.plan.blocks import ModelShape
from splitcom_dist.plan.channel import Array, ChannelConfig, drop_users, gains, watts
from splitcom_dist.plan.rounds import RoundCurve, fit, load
from splitcom_dist.plan.subchannels import Allocation, Band
from splitcom_dist.plan.workload import (
    ADAPTER_COPIES,
    Adapter,
    Batch,
    adapter_elements,
    cut_bytes,
    part_operations,
    part_parameters,
)


@dataclass(frozen=True)
class SflllmConfig:
    """The setting; everything but the number of clients is ours."""

    clients: int = 5
    main_subchannels: int = 20
    federated_subchannels: int = 20
    subchannel_hz: float = 500e3
    client_power_dbm: float = 31.76  # p_max
    total_power_dbm: float = 36.99  # p_th
    client_flops_low: float = 0.5e12  # operations a second, uniform between these
    client_flops_high: float = 1.5e12
    server_flops: float = 10e12
    local_steps: int = 12  # I
    batch: Batch = field(default_factory=lambda: Batch(samples=16, length=128))
    activation_itemsize: int = 2
    adapter_itemsize: int = 4
    weight_itemsize: int = 4
    ranks: Sequence[int] = (1, 2, 4, 6, 8, 12, 16, 32)
    client_memory_bytes: float = float("inf")  # weights, adapters with their optimizer, and what backward passes keep
    channel: ChannelConfig = field(default_factory=lambda: ChannelConfig(fading=True))


@dataclass(frozen=True)
class Costs:
    """By [split - 1, place of the rank]: operations of one client's batch, bits of one upload, bytes of one client."""

    ranks: Sequence[int]
    client_forward: Array
    client_backward: Array
    server: Array
    activation_bits: Array
    adapter_bits: Array
    client_memory: Array


@dataclass(frozen=True)
class Instance:
    """One drop of clients."""

    costs: Costs
    client_flops: Array  # (clients,)
    server_flops: float
    local_steps: int
    main: Band
    federated: Band
    rounds: RoundCurve
    most_memory: float


@dataclass(frozen=True)
class Choice:
    """A split and the place of a rank: an index into the tables of Costs."""

    split: int
    rank: int

    def of(self, table: Array) -> float:
        return float(table[self.split - 1, self.rank])


def costs_of(shape: ModelShape, config: SflllmConfig, saved: Callable[[int], int] = lambda split: 0) -> Costs:
    """Tables for a model; `saved` gives the bytes that the backward pass of a head of so many blocks keeps."""
    splits, batch = range(1, shape.blocks), config.batch

    def table(value: Callable[[int, Adapter], float]) -> Array:
        return np.array([[value(split, Adapter(rank)) for rank in config.ranks] for split in splits], dtype=float)

    def head(split: int, adapter: Adapter) -> tuple[int, int]:
        work = part_operations(shape, adapter, batch, 0, split, trains=True, lm_head=False)
        return work.forward, work.backward

    def server(split: int, adapter: Adapter) -> float:
        work = part_operations(shape, adapter, batch, split, shape.blocks, trains=True, lm_head=True)
        return work.forward + work.backward

    def memory(split: int, adapter: Adapter) -> float:
        weights = config.weight_itemsize * part_parameters(shape, 0, split, lm_head=False)
        return weights + 4 * ADAPTER_COPIES * adapter_elements(shape, adapter, 0, split) + saved(split)

    return Costs(
        ranks=config.ranks,
        client_forward=table(lambda split, adapter: head(split, adapter)[0]),
        client_backward=table(lambda split, adapter: head(split, adapter)[1]),
        server=table(server),
        activation_bits=table(lambda *_: 8 * cut_bytes(shape, batch.positions, config.activation_itemsize)),
        adapter_bits=table(
            lambda split, adapter: 8 * config.adapter_itemsize * adapter_elements(shape, adapter, 0, split)
        ),
        client_memory=table(memory),
    )


def draw(config: SflllmConfig, costs: Costs, seed: int, rounds: RoundCurve | None = None) -> Instance:
    """Places, channels and devices of a seed; the fitted E(r) unless another is given."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 2)))
    distances = drop_users(config.channel, config.clients, seed)
    count = config.main_subchannels + config.federated_subchannels
    noise_w = config.channel.noise_w_per_hz * config.subchannel_hz
    snr = gains(config.channel, distances, seed, count) / noise_w
    caps = config.subchannel_hz, watts(config.client_power_dbm), watts(config.total_power_dbm)
    return Instance(
        costs=costs,
        client_flops=rng.uniform(config.client_flops_low, config.client_flops_high, config.clients),
        server_flops=config.server_flops,
        local_steps=config.local_steps,
        main=Band(snr[:, : config.main_subchannels], *caps),
        federated=Band(snr[:, config.main_subchannels :], *caps),
        rounds=rounds or fit(load()),
        most_memory=config.client_memory_bytes,
    )


def forward_seconds(instance: Instance, choice: Choice) -> Array:
    """(clients,): when each begins to upload."""
    return np.asarray(choice.of(instance.costs.client_forward) / instance.client_flops)


def delay(instance: Instance, choice: Choice, main: Allocation, federated: Allocation) -> float:
    """T in seconds."""
    costs = instance.costs
    upload = main.finish(forward_seconds(instance, choice), choice.of(costs.activation_bits))
    server = len(instance.client_flops) * choice.of(costs.server) / instance.server_flops
    backward = choice.of(costs.client_backward) / float(np.min(instance.client_flops))
    adapters = choice.of(costs.adapter_bits) / float(np.min(federated.rates))
    step = upload + server + backward
    return instance.rounds(costs.ranks[choice.rank]) * (instance.local_steps * step + adapters)
