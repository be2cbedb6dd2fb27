"""What a rank holds before it knows the schedule: its parts of the model, with fresh adapters, and its samples."""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.comm.sharded_weights import shard_weights
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import client_cuts
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.lora import adapter_parameters, adapter_shapes, attach_lora, is_in_part
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import HELD_BY, Part, cut_blocks, load_part, parts_held, tie_tail
from splitcom_dist.shards import training_shards, validation_samples
from splitcom_dist.world import World


@dataclass(frozen=True)
class Share:
    """Models by the name of their part, `cuts` to tell the parts of a whole one, samples where there is text.

    Of clients with mixed cuts the part `head` is what all of them train; what is between the cuts is `shared`.
    """

    parts: dict[str, PreTrainedModel]
    cuts: dict[str, Part]
    shared: dict[int, int] = field(default_factory=dict)  # adapter elements of each shared block, held here or not
    shards: dict[int, list[Sample]] = field(default_factory=dict)
    validation: list[Sample] = field(default_factory=list)

    @property
    def shard_sizes(self) -> dict[int, int]:
        return {client: len(samples) for client, samples in self.shards.items()}

    def adapter(self, part: str) -> list[nn.Parameter]:
        """Adapter parameters of a part, in the order of every flat vector; also where the whole model holds them."""
        model = self.parts.get(part) or self.parts["whole"]
        cut, model_type = self.cuts[part], str(model.config.model_type)
        named = adapter_parameters(model).items()
        return [parameter for name, parameter in named if is_in_part(name, model_type, cut)]

    def shared_adapters(self) -> list[list[nn.Parameter]]:
        """Adapter parameters of each shared block that is held here; of a client rank the first few."""
        found = [
            [
                parameter
                for model in self.parts.values()
                for name, parameter in adapter_parameters(model).items()
                if is_in_part(name, str(model.config.model_type), Part(block, block + 1, lm_head=False))
            ]
            for block in self.shared
        ]
        return [block for block in found if block]


def load_share(config: Config, world: World, source: ModelSource, device: torch.device) -> Share:
    """Load this rank's data and materialise its parts of the model on `device`; of a body that shards share all, for a
    moment.

    Adapters are drawn on the host, so that they begin alike on every device.
    """
    role = world.layout.role_of(world.rank)
    clients = world.layout.clients_of(world.rank) if role == "client" else []
    cuts, held = (parts_held(config, those, source.block_count) for those in ([], clients))
    shared = {
        block: sum(shape.numel() for shape in adapter_shapes(config, source, Part(block, block + 1, lm_head=False)))
        for block in client_cuts(config).shared
    }
    dtype = getattr(torch, config.model.dtype)
    models = {name: load_part(source, held[name], dtype) for name in HELD_BY[role] if name in held}
    if "tail" in models:
        tie_tail(models["head"], models["tail"])
    at_cut = cut_blocks(config, source.block_count)
    for model in models.values():
        attach_lora(model, config.lora, config.train.seed, at_cut)
        cast(nn.Module, model).to(device)
    if role == "client":
        return Share(models, cuts, shared, shards=training_shards(config, source.tokenizer(), clients))
    if role == "aggregator":
        return Share(models, cuts, shared, validation=validation_samples(config, source.tokenizer()))
    if world.groups.shards is not None:
        shard_weights(models["body"], world.groups.shards)
    return Share(models, cuts, shared)
