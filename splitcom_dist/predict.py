"""How many bytes a run will hand to its transport: exact where no gate decides and nothing is entropy-coded, else two
bounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from splitcom_dist.attendance import Attendance, Mode
from splitcom_dist.codec.ends import make_decoder
from splitcom_dist.codec.gated.modes import modes_bytes
from splitcom_dist.codec.header import HEADER
from splitcom_dist.codec.labels import max_label_bytes
from splitcom_dist.codec.manifest import max_manifest_bytes
from splitcom_dist.codec.quantize import quantizer_of
from splitcom_dist.codec.rivals.delta import delta_bytes, whole_bytes
from splitcom_dist.codec.rivals.matrices import MATRIX_QUANTIZERS
from splitcom_dist.comm.compressed_mean import ANNOUNCEMENT, CHECKSUM, packet_bytes
from splitcom_dist.comm.factors import answer_bytes, factor_bytes
from splitcom_dist.comm.gradients import gradient_bytes
from splitcom_dist.comm.layer_mean import layer_mean_bytes
from splitcom_dist.comm.stacked import stacked_bytes
from splitcom_dist.config.implied import head_trains, names_samples
from splitcom_dist.config.schema import Config, LinkCodecConfig
from splitcom_dist.data.batching import in_micro_batches
from splitcom_dist.data.tokens import Sample
from splitcom_dist.links import LINKS, is_upward, links_of
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.predict_partial import Visits, walk
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
    if schedule.participation < 1:
        visits = walk(schedule, shards)
        return {link: _predict_partial(config, link, source, visits) for link in links_of(config.model.tail_layers)}
    batches = [
        len(part)
        for client in shards
        for start in range(0, len(shards[client]), schedule.batch_size)
        for part in in_micro_batches(shards[client][start : start + schedule.batch_size], schedule.micro_batches)
    ]
    samples = [sample for shard in shards.values() for sample in shard]
    return {
        link: _predict(config, link, source, batches, samples, schedule.epochs)
        for link in links_of(config.model.tail_layers)
    }


def predict_adapters(
    config: Config,
    schedule: Schedule,
    of_clients: int,
    of_servers: int,
    shared: Sequence[int] = (),
    factors: Sequence[int] = (),
) -> int:
    """Bytes of averaging, of the servers' gradients and of the adapter that one of them sends, from elements of each.

    `shared` are those of each block that some clients train and servers for others, not counted with either; `factors`
    those of every logical client, where products are averaged. For `rest.policy=gain` at most.
    """
    steps = range(schedule.total_steps)
    averagings = sum(map(schedule.averages_after, steps))
    evaluations = sum(map(schedule.evaluates_after, steps))
    ranks = len(schedule.layout.client_ranks)
    servers = len(schedule.layout.server_ranks)
    gradients = 0
    if servers > 1:
        gradients = len(steps) * servers * gradient_bytes(of_servers + sum(shared), len(shared))
    if config.fed.adapter_quantizer == "int8":
        packets = _packets(schedule) * packet_bytes(of_clients)
        return (
            averagings * (ranks + 1) * ANNOUNCEMENT
            + packets
            + gradients
            + evaluations * (CHECKSUM + packet_bytes(of_servers))
        )
    if config.fed.rank_aggregation == "stack":
        given = [sum(factors[client] for client in own) for own in _trained(schedule)]
        stacks = sum(stacked_bytes(ranks, config.fed.clients, elements) for elements in given)
        return stacks + gradients + evaluations * 4 * of_servers
    if config.fed.rank_aggregation == "svd":
        told = factor_bytes(averagings * config.fed.clients, sum(factors[c] for own in _trained(schedule) for c in own))
        return told + averagings * answer_bytes(ranks, of_clients) + gradients + evaluations * 4 * of_servers
    # A weight goes along. In an all-reduce the aggregator, which only listens, gives as much as the others; in a star
    # it gives the sum to each of them.
    vectors = 2 * ranks if config.fed.lost == "go_on" else ranks + 1
    means = averagings * (vectors * 4 * (of_clients + 1) + (ranks + servers + 1) * layer_mean_bytes(shared))
    return means + gradients + evaluations * 4 * of_servers


def _packets(schedule: Schedule) -> int:
    """Shares of averages over the whole run: a rank none of whose clients has trained since the last gives none."""
    return sum(len({schedule.layout.rank_of(client) for client in clients}) for clients in _trained(schedule))


def _trained(schedule: Schedule) -> Iterator[set[int]]:
    """For every average the logical clients that have trained since the last one."""
    trained = set[int]()
    for step in range(schedule.total_steps):
        if schedule.tails_train or schedule.mode(step) is Mode.TRAIN:
            trained |= set(schedule.active_clients(step))
        if schedule.averages_after(step):
            yield trained
            trained = set()


def _predict(
    config: Config, link: str, source: ModelSource, batches: Sequence[int], samples: Sequence[Sample], epochs: int
) -> LinkBytes:
    positions = sum(len(sample.tokens) - 1 for sample in samples)
    row = source.hidden_size * getattr(torch, config.telemetry.baseline_dtype).itemsize
    first, later = _epoch_bytes(getattr(config.codec, link), config, source, batches, samples)
    ends = []
    for bound, (busy, told) in enumerate(_busy_epochs(config, link, epochs)):
        payload = first[bound] + (busy - 1) * later[bound] if busy else 0
        headers = (busy + told) * len(batches) * HEADER.size
        ends.append(payload + headers + (_opening_bytes(config, source, samples, busy) if link == LINKS[0] else 0))
    return LinkBytes(
        raw_padded=epochs * len(samples) * config.data.max_length * row,
        raw_real=epochs * positions * row,
        least=ends[0],
        most=ends[1],
    )


def _predict_partial(config: Config, link: str, source: ModelSource, visits: Visits) -> LinkBytes:
    """Where heads never rest, so that every epoch is like another."""
    row = source.hidden_size * getattr(torch, config.telemetry.baseline_dtype).itemsize
    codec, count = getattr(config.codec, link), len(visits.first) + len(visits.later)
    first, _ = _epoch_bytes(codec, config, source, visits.batches, visits.first)
    _, later = _epoch_bytes(codec, config, source, [], visits.later)
    busy, told = _busy_epochs(config, link, epochs=1)[1]
    whole = (busy + told) * len(visits.batches) * HEADER.size
    if link == LINKS[0]:
        whole += _naming_bytes(config, count, len(visits.first))
        whole += _label_bytes(config, source, visits.first, visits.counted)
    least, most = (whole + busy * (first[bound] + later[bound]) for bound in (0, 1))
    return LinkBytes(count * config.data.max_length * row, visits.positions * row, least, most)


def _busy_epochs(config: Config, link: str, epochs: int) -> list[tuple[int, int]]:
    """At least and at most: epochs in which values cross on a link, and such in which headers alone do."""
    if link in ("down_activation", "up_gradient"):
        return [(epochs, 0)] * 2
    attendance = Attendance(config.rest)
    modes = [attendance.mode(epoch) for epoch in range(epochs)]
    trains = modes.count(Mode.TRAIN) if head_trains(config) else 0
    tells = modes.count(Mode.TELL) + modes.count(Mode.TRAIN) - trains
    most = (trains + tells, 0) if is_upward(link) else (trains, 0 if config.model.tail_layers else tells)
    return [(1, 0) if config.rest.policy == "gain" else most, most]  # that policy rests after one epoch at the earliest


def _opening_bytes(config: Config, source: ModelSource, samples: Sequence[Sample], epochs: int) -> int:
    """What names the batches of so many epochs, and in the standard shape every label once."""
    named = _naming_bytes(config, epochs * len(samples), len(samples))
    return named + _label_bytes(config, source, samples, len(samples))


def _naming_bytes(config: Config, visits: int, samples: int) -> int:
    entry = max_manifest_bytes(1) // 2
    return visits * entry + (samples * entry if names_samples(config) else 0)


def _label_bytes(config: Config, source: ModelSource, samples: Sequence[Sample], counted: int) -> int:
    """Every label once, in batches of so many samples; none in the U-shape."""
    targets = sum(len(sample.tokens) - sample.target_start for sample in samples)
    return 0 if config.model.tail_layers else max_label_bytes(counted, targets, source.vocabulary)


def _epoch_bytes(
    codec: LinkCodecConfig, config: Config, source: ModelSource, batches: Sequence[int], samples: Sequence[Sample]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sections of one epoch over all samples, at least and at most: of the first, and of any later one."""
    lengths, width = [len(sample.tokens) - 1 for sample in samples], source.hidden_size
    if codec.gate in ("error", "sampled"):
        limits = make_decoder(codec, width, getattr(torch, config.model.dtype)).limits(len(lengths), sum(lengths))
        most = limits.side + limits.modes + limits.scales + limits.symbols
        return (0, most), (0, most)  # what entropy coding makes of the values is not foreseen
    maps = sum(-(-size // 8) for size in batches)
    if codec.quantizer in MATRIX_QUANTIZERS:
        sizes = whole_bytes(lengths, width), delta_bytes(codec, lengths, width)
        whole, changes = (size - (len(lengths) + 7) // 8 + maps for size in sizes)
        first = whole if codec.predictor == "delta" else changes
        return (first, first), (changes, changes)
    quantizer = quantizer_of(codec, getattr(torch, config.model.dtype))
    whole = quantizer.scale_bytes(sum(lengths)) + quantizer.symbol_bytes(sum(lengths), width)
    if codec.gate == "never":
        return (0, 0), (0, 0)
    maps = sum(modes_bytes(codec, size, skipped=0) for size in batches)
    skipped = {"always": whole, "once": 0, "cosine": modes_bytes(codec, 0, skipped=sum(lengths))}[codec.gate]
    most = 0 if codec.gate == "once" else whole
    return (whole + maps, whole + maps), (skipped + maps, most + maps)
