"""What a rank of a run holds, as far as the model and its batch say it."""

import torch

from splitcom_dist.config.schema import Config
from splitcom_dist.layout import Layout
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import body, head
from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.saved import saved_bytes
from splitcom_dist.plan.workload import Adapter, Batch, adapter_elements, cut_bytes, part_parameters

PACKETS = 3  # of the size of an activation that a rank holds at once: rows, their encoding, the message


def held_by_role(config: Config, source: ModelSource, layout: Layout, batch: Batch, role: str) -> int:
    """Bytes on a client or server rank: weights, adapters with gradient and moments (those of every logical client),
    saved tensors, packets. What the process takes beside them is not in it."""
    shape, cut, dtype = model_shape(source.config), config.model.cut_layer, getattr(torch, config.model.dtype)
    part = head(cut) if role == "client" else body(cut, shape.blocks)
    adapters = adapter_elements(shape, Adapter(config.lora.rank, config.lora.target_modules), part.first, part.last)
    owners = max(len(layout.clients_of(rank)) for rank in layout.client_ranks)
    copies = 1 + 3 * (owners if role == "client" else 1)
    saved = saved_bytes(source, config.lora, dtype, part, batch, trains=True)
    weights = part_parameters(shape, part.first, part.last, lm_head=part.lm_head) * dtype.itemsize
    packets = PACKETS * cut_bytes(shape, batch.positions, dtype.itemsize)
    return int(weights + 4 * copies * adapters + saved + packets)
