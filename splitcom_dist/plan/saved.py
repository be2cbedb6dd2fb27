"""Bytes that a part keeps from its forward pass for its backward pass: traced without storage, so that every family's
own operations count, as transformers and torch are installed."""

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from splitcom_dist.config.schema import LoraConfig
from splitcom_dist.models.lora import insert_lora
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import Part, forward_blocks, outline_part
from splitcom_dist.plan.workload import Batch

UNMASKED = "splitcom_unmasked"
TRACED = 2  # blocks: one that is the first, and one that is like all others


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Inside it, counts the storages that autograd keeps, each once, and not those of `weights`, which stay anyway."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._kept: dict[int, Any] = {}
        self._weights = {_key(weight) for weight in weights}
        super().__init__(self._pack, lambda tensor: tensor)

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if _key(tensor) not in self._weights:
            self._kept[_key(tensor)] = tensor.untyped_storage()  # held, so that no other one takes its address
        return tensor


def saved_bytes(
    source: ModelSource, lora: LoraConfig, dtype: torch.dtype, part: Part, batch: Batch, *, trains: bool
) -> int:
    """Bytes for `part` of the model and one batch; `trains` as in workload.part_operations."""
    if part.first == 0 and not trains:
        return 0
    first, count = min(part.first, 1), part.last - part.first
    one, two = (
        _traced(_Key(source, lora, dtype), Part(first, first + blocks, part.lm_head), batch, trains)
        for blocks in (1, TRACED)
    )
    return one + (count - 1) * (two - one)


class _Key:
    """A model and its adapters as `cache` tells them apart."""

    def __init__(self, source: ModelSource, lora: LoraConfig, dtype: torch.dtype) -> None:
        self.source, self.lora, self.dtype = source, lora, dtype
        self._name = (source.name, str(source.folder), str(lora), dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


@cache
def _traced(key: _Key, part: Part, batch: Batch, trains: bool) -> int:
    config = copy.copy(key.source.config)
    config.num_hidden_layers = part.last
    # transformers would write out the causal mask for tensors that it sees traced; for an attention that it does not
    # know it makes none.
    transformers.AttentionInterface.register(UNMASKED, sdpa_attention_forward)
    config._attn_implementation = UNMASKED
    short = ModelSource(key.source.name, key.source.folder, config)
    model = outline_part(short, part).to(key.dtype)
    insert_lora(model, key.lora)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _settle(model)
        return count_saved(model, part, batch, trains, key.source.hidden_size, key.dtype)


def _settle(model: nn.Module) -> None:
    """Bring an outline from device "meta", where attention takes another path, to a CPU without storage either."""
    for path, module in model.named_modules():
        adapts = ".lora_" in path
        for name, weight in module.named_parameters(recurse=False):
            dtype = torch.float32 if adapts else weight.dtype
            module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=dtype), adapts)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def count_saved(model: Any, part: Part, batch: Batch, trains: bool, hidden: int, dtype: torch.dtype) -> int:
    """The same of a model as it is, real or not."""
    shape = (batch.samples, batch.length)
    ids = torch.zeros(shape, dtype=torch.int64) if part.first == 0 else None
    activation = torch.zeros(*shape, hidden, dtype=dtype, requires_grad=trains) if part.first else None
    saved = SavedBytes([*model.parameters(), *model.buffers()])
    with saved:
        output = forward_blocks(model, input_ids=ids, activation=activation)
        if part.lm_head:
            rows = batch.positions if batch.targets is None else batch.targets
            logits = model.lm_head(output.flatten(0, 1)[torch.arange(rows)]).float()
            output = functional.cross_entropy(logits, torch.zeros(rows, dtype=torch.int64), reduction="sum")
        del output
    return saved.total


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
