"""How long this rank takes for one batch: a part of one block and of two, forward, backward and optimizer; and codecs.

Weights are drawn at random: only their shapes matter, and nothing has to be read.
"""

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, cast

import torch
from torch.nn import functional

from splitcom_dist.codec.ends import make_decoder, make_encoder
from splitcom_dist.codec.header import Header
from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.codec.visit import Visit
from splitcom_dist.codec.wire import in_messages
from splitcom_dist.comm.transports import SLOT
from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.models.lora import adapter_parameters, attach_lora
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import Part, forward_blocks, outline_part
from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.cluster import CodecSeconds, Line, RankSpeed
from splitcom_dist.plan.saved import saved_bytes
from splitcom_dist.plan.workload import ADAPTER_COPIES, Adapter, Batch, adapter_elements, part_parameters
from splitcom_dist.training import AdapterOptimizer

CODECS = ("none", "fp16", "int8")  # presets whose time and bytes do not depend on what is sent
WARM_UP, LEAST, MOST, SECONDS = 2, 5, 50, 3.0  # batches: to warm up, measured at least and at most, and for so long


@dataclass(frozen=True)
class PartSeconds:
    forward: float
    backward: float
    optimizer: float


def measure_rank(config: Config, source: ModelSource, rank: int, role: str, batch: Batch, tokens: int) -> RankSpeed:
    """All figures of a client or server rank."""
    one, two = (measure_part(config, source, _part(source, role, blocks), batch) for blocks in (1, 2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB

    def line(of: Callable[[PartSeconds], float]) -> Line:
        return Line(of(one), max(0.0, of(two) - of(one)))

    return RankSpeed(
        rank,
        role,
        forward=line(lambda seconds: seconds.forward),
        backward=line(lambda seconds: seconds.backward),
        optimizer=line(lambda seconds: seconds.optimizer),
        codecs={name: measure_codec(config, source, name, batch.samples, tokens) for name in CODECS},
        process_bytes=peak - _held_bytes(config, source, _part(source, role, 2), batch),
    )


def measure_part(config: Config, source: ModelSource, part: Part, batch: Batch) -> PartSeconds:
    """Medians over repeated batches, of full length as padded ones are; the server's with LM head and loss."""
    model = _random(source, part, getattr(torch, config.model.dtype))
    attach_lora(model, config.lora, seed=0)
    optimizer = AdapterOptimizer(list(adapter_parameters(model).values()), config.train, WARM_UP + MOST)
    lengths = torch.full((batch.samples,), batch.length)
    timed: list[list[float]] = [[], [], []]
    for _ in _repeats():
        marks = [time.perf_counter()]
        if part.first == 0:
            ids = torch.randint(source.vocabulary, (batch.samples, batch.length))
            output = to_ragged(forward_blocks(model, input_ids=ids), lengths)
            gradient = torch.randn_like(output)
        else:
            rows = (
                torch.randn(batch.positions, source.hidden_size).to(getattr(torch, config.model.dtype)).requires_grad_()
            )
            hidden = to_ragged(forward_blocks(model, activation=to_padded(rows, lengths)), lengths)
            labels = torch.randint(source.vocabulary, (batch.targets or batch.positions,))
            logits = cast(Any, model).lm_head(hidden[: len(labels)]).float()
            output, gradient = functional.cross_entropy(logits, labels, reduction="sum"), torch.ones(())
        for act in (lambda: output.backward(gradient), optimizer.step):  # noqa: B023
            marks.append(time.perf_counter())
            act()
        marks.append(time.perf_counter())
        for own, (start, end) in zip(timed, pairwise(marks), strict=True):
            own.append(end - start)
    return PartSeconds(*(median(own[WARM_UP:]) for own in timed))


def measure_codec(config: Config, source: ModelSource, name: str, samples: int, tokens: int) -> CodecSeconds:
    """One packet of so many rows, there and back."""
    dtype, width = getattr(torch, config.model.dtype), source.hidden_size
    link = load_config([], [f"codec={name}"]).codec.up_activation
    encoder, decoder = make_encoder(link, width, dtype, 0), make_decoder(link, width, dtype)
    lengths = torch.full((samples,), tokens // samples)
    lengths[: tokens % samples] += 1
    visit = Visit(list(range(samples)), lengths)
    encoding, decoding = [], []
    for _ in _repeats():
        rows = torch.randn(tokens, width).to(dtype)
        started = time.perf_counter()
        sections = encoder.encode(rows, visit).sections
        in_messages(Header(0, 0, 0), sections, SLOT)
        encoded = time.perf_counter()
        decoder.decode(sections, visit)
        encoding.append(encoded - started)
        decoding.append(time.perf_counter() - encoded)
    return CodecSeconds(median(encoding[WARM_UP:]), median(decoding[WARM_UP:]))


def _repeats() -> Iterator[int]:
    """So many, and for so long, that one burst of something else on the machine is no median."""
    started = time.perf_counter()
    for count in range(WARM_UP + MOST):
        if count >= WARM_UP + LEAST and time.perf_counter() - started > SECONDS:
            return
        yield count


def _held_bytes(config: Config, source: ModelSource, part: Part, batch: Batch) -> int:
    """What the plan will count by itself: of the peak, the rest is the process's."""
    shape, dtype = model_shape(source.config), getattr(torch, config.model.dtype)
    adapters = adapter_elements(shape, Adapter(config.lora.rank, config.lora.target_modules), part.first, part.last)
    weights = part_parameters(shape, part.first, part.last, lm_head=part.lm_head) * int(dtype.itemsize)
    return weights + 4 * ADAPTER_COPIES * adapters + saved_bytes(source, config.lora, dtype, part, batch, trains=True)


def _part(source: ModelSource, role: str, blocks: int) -> Part:
    count = source.block_count
    return Part(0, blocks, lm_head=False) if role == "client" else Part(count - blocks, count, lm_head=True)


def _random(source: ModelSource, part: Part, dtype: torch.dtype) -> Any:
    model = outline_part(source, part).to(dtype).to_empty(device="cpu").requires_grad_(False)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.02)
    return model.train()
