"""What a run would be, without running it: resolved configuration, roles, memory, and the bytes of every link."""

from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.codec.header import HEADER
from splitcom_dist.comm.sharded_weights import slice_bytes
from splitcom_dist.config.files import to_yaml
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import client_cuts
from splitcom_dist.devices import planned
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.models.lora import adapter_parameters, adapter_shapes, insert_lora
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.models.split import (
    HELD_BY,
    Part,
    check_cuts,
    cut_blocks,
    outline_part,
    parts_held,
    resident_bytes,
    tie_tail,
    trained_by_clients,
)
from splitcom_dist.predict import LinkBytes, predict_adapters, predict_links
from splitcom_dist.schedule import schedule_for
from splitcom_dist.shards import check_length, training_shards
from splitcom_dist.telemetry.summary import change, megabytes


def describe(config: Config) -> None:
    """Print the plan. Raises UserError for what would end the run at its start."""
    layout = layout_for(config)
    source = find_model(config.model.name, config.model.dropout)
    check_cuts(config, source.block_count)
    check_length(config, source)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    of_clients, of_servers, shared = adapter_elements(config, source)
    adapters = predict_adapters(config, schedule, of_clients, of_servers, shared, factor_elements(config, source))
    console = Console(soft_wrap=True)
    console.print(to_yaml(config), highlight=False)
    console.print(_roles(config, source, layout))
    console.print(_bytes(predict_links(config, source, schedule, shards), adapters, config.telemetry.baseline_dtype))
    if config.fed.straggler == "deadline":
        console.print(f"at most: a turn that a late client leaves out is one packet of {HEADER.size} bytes")
    counts = ", ".join(str(len(shard)) for shard in shards.values())
    console.print(f"{layout.world_size} ranks; shards of {counts} samples")
    console.print(f"{schedule.steps_per_epoch} steps an epoch, {schedule.total_steps} in all")


def adapter_elements(config: Config, source: ModelSource) -> tuple[int, int, list[int]]:
    """Of what clients alone train, of what servers alone do, and of each block that both do."""
    parts = parts_held(config, [], source.block_count)
    shared = [Part(block, block + 1, lm_head=False) for block in client_cuts(config).shared]
    both = [_elements(config, source, block) for block in shared]
    of_clients = sum(_elements(config, source, parts[name]) for name in trained_by_clients(config))
    return of_clients, _elements(config, source, parts["body"]) - sum(both), both


def _elements(config: Config, source: ModelSource, part: Part) -> int:
    return sum(shape.numel() for shape in adapter_shapes(config, source, part))


def factor_elements(config: Config, source: ModelSource) -> list[int]:
    """Of the factors that each logical client trains, at its own rank."""
    parts = parts_held(config, [], source.block_count)
    shapes = [shape for name in trained_by_clients(config) for shape in adapter_shapes(config, source, parts[name])]
    ranks = Ranks(config.lora.ranks, shapes)
    return [ranks.elements(client) for client in range(config.fed.clients)]


def held_by(config: Config, source: ModelSource, layout: Layout) -> list[tuple[int, int]]:
    """Bytes of weights and of adapters that each rank will hold."""
    known: dict[tuple[Part, ...], tuple[int, int]] = {}  # many ranks hold the same
    for rank in range(layout.world_size):
        owned = _owned(config, source, layout, rank)
        if owned in known:
            continue
        known[owned] = _held(config, source, owned)
        if config.roles.server_shards > 1 and rank in layout.body_ranks:
            slices = slice_bytes(_outlines(config, source, owned), config.roles.server_shards)
            known[owned] = slices, known[owned][1]
    return [known[_owned(config, source, layout, rank)] for rank in range(layout.world_size)]


def _owned(config: Config, source: ModelSource, layout: Layout, rank: int) -> tuple[Part, ...]:
    role = layout.role_of(rank)
    parts = parts_held(config, layout.clients_of(rank) if role == "client" else [], source.block_count)
    return tuple(parts[name] for name in HELD_BY[role] if name in parts)


def _roles(config: Config, source: ModelSource, layout: Layout) -> Table:
    table = Table("rank", "device", "blocks", "weights", "adapter", box=None, pad_edge=False, title_justify="left")
    table.title = "what each rank will hold"
    for rank, held in enumerate(held_by(config, source, layout)):
        blocks = ", ".join(f"{part.first}..{part.last - 1}" for part in _owned(config, source, layout, rank))
        device = planned(config.runtime.device, rank)  # as if all ranks were on this machine
        table.add_row(layout.name_of(rank), device, blocks, *map(megabytes, held))
    return table


def _held(config: Config, source: ModelSource, owned: Sequence[Part]) -> tuple[int, int]:
    """Bytes of weights and of adapters of one rank's parts."""
    models = _outlines(config, source, owned)
    if len(models) == 2:
        tie_tail(*models)
    weights = resident_bytes(models)
    at_cut = cut_blocks(config, source.block_count)
    for model in models:
        insert_lora(model, config.lora, at_cut)
    return weights, sum(parameter.numel() * 4 for parameter in adapter_parameters(models).values())


def _outlines(config: Config, source: ModelSource, owned: Sequence[Part]) -> nn.ModuleList:
    return nn.ModuleList(outline_part(source, part).to(getattr(torch, config.model.dtype)) for part in owned)


def _bytes(links: Mapping[str, LinkBytes], adapters: int, dtype: str) -> Table:
    """The whole run; a gated link between its least and its most."""
    baseline = {"float16": "FP16", "float32": "FP32"}[dtype]
    table = Table(
        box=None, pad_edge=False, title="bytes of the whole run: all clients, labels, headers", title_justify="left"
    )
    for header in ("link", "padded " + baseline, "real " + baseline, "wire", "", ""):
        table.add_column(header, justify="left" if header == "link" else "right", no_wrap=True)
    total = [sum(getattr(count, name) for count in links.values()) for name in ("raw_padded", "raw_real")]
    ends = [sum(getattr(count, name) for count in links.values()) + adapters for name in ("least", "most")]
    for link, count in links.items():
        table.add_row(link, *_against(count.raw_padded, count.raw_real, count.least))
        if count.most > count.least:
            table.add_row(
                "  if no sample is skipped", *_against(count.raw_padded, count.raw_real, count.most), style="dim"
            )
    table.add_row("adapters", "", "", megabytes(adapters))
    for name, end in zip(("total", "  if no sample is skipped"), sorted(set(ends)), strict=False):
        table.add_row(name, *_against(total[0], total[1], end), style="bold")
    return table


def _against(padded: int, real: int, wire: int) -> Sequence[str]:
    return [megabytes(padded), megabytes(real), megabytes(wire), change(wire, padded), change(wire, real)]
