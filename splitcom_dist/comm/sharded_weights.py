"""The frozen weights of a server's body, a slice of each on every shard (FSDP2: Zhao et al. 2023, arXiv 2304.11277).

A block's weights are brought together when its forward or backward begins and given up again when it ends, so a shard
holds its slices and at most two whole blocks, or one and the LM head. Adapters stay whole on every shard: they are
small, and optimizer, averages and checkpoints are those of any server. While it loads, a shard may need room for the
whole body.
"""

import ctypes
import warnings
from typing import cast

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from splitcom_dist.models.families import decoder_of, family_of
from splitcom_dist.models.lora import adapter_parameters

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE = 1 << 20  # bytes


def shard_weights(model: PreTrainedModel, group: dist.ProcessGroup) -> None:
    """Keep this rank's slices of a body's weights only; from now on all ranks of `group` compute in step.

    They call forward and backward equally often and in the same order, whatever the size of their batches.
    """
    family = family_of(model.config.model_type)
    decoder = decoder_of(model, family)
    setattr(decoder, family.embedding, None)  # a tied LM head is the same matrix, and the body embeds nothing
    mesh, adapters = DeviceMesh.from_group(group, "cpu"), set(adapter_parameters(model).values())
    # The output of GPT-2's decoder is a view, which FSDP2 warns of: nobody changes it in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    _return_freed_memory()
    blocks = cast(nn.ModuleList, getattr(decoder, family.blocks))
    for module in (*blocks, model.base_model, model.lm_head):
        if module is not None and next(module.parameters(), None) is not None:
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)


def _return_freed_memory() -> None:
    """Let freed weights leave the process at once.

    Once glibc has seen large blocks freed, it keeps such as come after them, up to 32 MB each: at 12 blocks of 38 MB on
    four shards, all 450 MB of a body that had been brought together block by block stayed resident.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)


def slice_bytes(model: nn.Module, shards: int) -> int:
    """Bytes that each of `shards` ranks will hold of a body: of every weight an equal number of rows, the last ones
    filled up with zeros, and all buffers."""
    rows = (-(-weight.shape[0] // shards) * weight[:1].nbytes for weight in model.parameters())
    return sum(rows) + sum(buffer.nbytes for buffer in model.buffers())
