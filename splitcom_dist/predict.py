"""How many bytes a run will hand to its transport: exact where every sample is sent or sent once, else two bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from splitcom_dist.codec.labels import max_label_bytes
from splitcom_dist.codec.modes import modes_bytes
from splitcom_dist.codec.prefix import max_manifest_bytes
from splitcom_dist.codec.quantize import QUANTIZERS
from splitcom_dist.codec.wire import HEADER
from splitcom_dist.config import Config, LinkCodecConfig
from splitcom_dist.data.tokens import Sample
from splitcom_dist.links import links_of
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.schedule import Schedule


@dataclass(frozen=True)
class LinkBytes:
    """Bytes of one link over all clients and the whole run."""

    raw_padded: int
    raw_real: int
    least: int  # a gate that skips every sample it may
    most: int  # a gate that skips none


def predict_links(
    config: Config, source: ModelSource, schedule: Schedule, shards: Mapping[int, Sequence[Sample]]
) -> dict[str, LinkBytes]:
    """Bytes of every link, labels included."""
    batches = [
        len(shards[client][start : start + schedule.batch_size])
        for client in shards
        for start in range(0, len(shards[client]), schedule.batch_size)
    ]
    samples = [sample for shard in shards.values() for sample in shard]
    return {
        link: _predict(config, link, source, batches, samples, schedule.epochs)
        for link in links_of(config.model.tail_layers)
    }


def predict_adapters(config: Config, schedule: Schedule, of_clients: int, of_servers: int) -> int:
    """Bytes of averaging and of the servers' adapters, from float32 elements of each."""
    steps = range(schedule.total_steps)
    averagings = sum(map(schedule.averages_after, steps))
    evaluations = sum(map(schedule.evaluates_after, steps))
    ranks = len(schedule.layout.client_ranks) + 1  # the aggregator takes part; a weight goes along
    servers = len(schedule.layout.server_ranks)
    return averagings * ranks * 4 * (of_clients + 1) + evaluations * servers * 4 * of_servers


def _predict(
    config: Config, link: str, source: ModelSource, batches: Sequence[int], samples: Sequence[Sample], epochs: int
) -> LinkBytes:
    codec: LinkCodecConfig = getattr(config.codec, link)
    positions = sum(len(sample.tokens) - 1 for sample in samples)
    row = source.hidden_size * getattr(torch, config.telemetry.baseline_dtype).itemsize
    quantizer = QUANTIZERS[codec.quantizer](getattr(torch, config.model.dtype))
    whole = quantizer.scale_bytes(positions) + quantizer.symbol_bytes(positions, source.hidden_size)
    fixed = epochs * sum(HEADER.size + modes_bytes(codec, size, skipped=0) for size in batches)
    gains = modes_bytes(codec, 0, skipped=positions)
    if link == "up_activation":
        fixed += epochs * len(samples) * max_manifest_bytes(1) // 2
        if not config.model.tail_layers:
            targets = sum(len(sample.tokens) - sample.target_start for sample in samples)
            fixed += max_label_bytes(len(samples), targets, source.vocabulary)
    visits = {"always": (epochs, epochs), "once": (1, 1), "never": (0, 0), "cosine": (1, epochs)}[codec.gate]
    return LinkBytes(
        raw_padded=epochs * len(samples) * config.data.max_length * row,
        raw_real=epochs * positions * row,
        least=fixed + visits[0] * whole + (epochs - visits[0]) * gains,
        most=fixed + visits[1] * whole,
    )
