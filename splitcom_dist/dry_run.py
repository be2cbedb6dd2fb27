"""What a run would be, without running it: resolved configuration, roles, memory, and bytes a step."""

import torch
from rich.console import Console
from rich.table import Table

from splitcom_dist.codec.codec import modes_bytes
from splitcom_dist.codec.quantize import QUANTIZERS
from splitcom_dist.codec.wire import HEADER, MANIFEST_BYTES
from splitcom_dist.config import Config, LinkCodecConfig
from splitcom_dist.config_files import to_yaml
from splitcom_dist.data.tokens import Sample
from splitcom_dist.layout import layout_for
from splitcom_dist.models.lora import adapter_parameters, insert_lora
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.models.split import Part, body, check_cut, head, outline_part, resident_bytes, whole
from splitcom_dist.shards import check_length, training_shards


def describe(config: Config) -> None:
    """Print the plan. Raises UserError for what would end the run at its start."""
    layout = layout_for(config)
    source = find_model(config.model.name, config.model.dropout)
    check_cut(config.model.cut_layer, source.block_count)
    check_length(config, source)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    console = Console(soft_wrap=True)
    console.print(to_yaml(config), highlight=False)
    console.print(_roles(config, source))
    console.print(_bytes(config, source, [sample for shard in shards.values() for sample in shard]))
    sizes = ", ".join(str(len(shard)) for shard in shards.values())
    steps = max(-(-len(shard) // config.train.batch_size) for shard in shards.values())
    console.print(f"{layout.world_size} ranks; shards of {sizes} samples")
    console.print(f"{steps} steps an epoch, {steps * config.train.epochs} in all")


def _roles(config: Config, source: ModelSource) -> Table:
    layout, cut = layout_for(config), config.model.cut_layer
    parts = {
        "client": head(cut),
        "server": body(cut, source.block_count),
        "aggregator": whole(source.block_count),
    }
    table = Table("rank", "blocks", "weights", "adapter", title="roles and what each rank will hold")
    for rank in range(layout.world_size):
        part = parts[layout.role_of(rank)]
        weights, adapter = _part_bytes(config, source, part)
        blocks = f"{part.first}..{part.last - 1}"
        table.add_row(layout.name_of(rank), blocks, f"{weights / 1e6:.1f} MB", f"{adapter / 1e6:.2f} MB")
    return table


def _part_bytes(config: Config, source: ModelSource, part: Part) -> tuple[int, int]:
    dtype = getattr(torch, config.model.dtype)
    model = outline_part(source, part).to(dtype)
    weights = resident_bytes(model)
    insert_lora(model, config.lora)
    return weights, sum(parameter.numel() * 4 for parameter in adapter_parameters(model).values())


def _bytes(config: Config, source: ModelSource, samples: list[Sample]) -> Table:
    """One client's batch of mean length, every sample sent: the most that a gate can leave."""
    batch, width = config.train.batch_size, source.hidden_size
    positions = sum(len(sample.tokens) - 1 for sample in samples) / len(samples)
    row = width * getattr(torch, config.telemetry.baseline_dtype).itemsize
    table = Table("link", "raw padded", "raw real", "on the wire", title="bytes of one batch of one client")
    for link in ("up_activation", "down_gradient"):
        codec: LinkCodecConfig = getattr(config.codec, link)
        tokens = round(batch * positions)
        quantizer = QUANTIZERS[codec.quantizer](getattr(torch, config.model.dtype))
        wire = HEADER.size
        if codec.gate != "never":
            wire += quantizer.scale_bytes(tokens) + quantizer.symbol_bytes(tokens, width) + modes_bytes(codec, batch)
        if link == "up_activation":
            wire += MANIFEST_BYTES * batch
        padded = batch * config.data.max_length * row
        table.add_row(link, f"{padded:,}", f"{tokens * row:,}", f"{wire:,}")
    return table
