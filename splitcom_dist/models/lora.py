"""LoRA adapters of a part: attached by peft, initialised alike everywhere, moved as one flat vector."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.config.schema import Config, LoraConfig
from splitcom_dist.devices import to_device, to_host
from splitcom_dist.errors import UserError
from splitcom_dist.models.families import family_of
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import Part, cut_blocks, outline_part


def peft_config(model_type: str, lora: LoraConfig, base: str, at_cut: Collection[int] = ()) -> peft.LoraConfig:
    """The adapter's configuration as peft writes it; targets default to the family's attention projections.

    Blocks `at_cut` have `lora.cut_rank`, where that is set. There is no alpha_pattern, so peft scales them by alpha
    over their own rank, as it does any adapter: so that one learning rate suits every rank (LoRA, section 4.1).
    """
    return peft.LoraConfig(
        r=lora.rank,
        rank_pattern=_rank_pattern(model_type, lora, at_cut),
        lora_alpha=cast(int, lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules or family_of(model_type).lora_targets),
        fan_in_fan_out=model_type == "gpt2",  # its Conv1D stores weights transposed
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def _rank_pattern(model_type: str, lora: LoraConfig, at_cut: Collection[int]) -> dict[str, int]:
    """Ranks other than `lora.rank`, by a regular expression for the modules that have them.

    One for all blocks: peft warns of an expression that nothing fits, as one block's in a part that lacks it.
    """
    if lora.cut_rank is None:
        return {}
    if not at_cut:
        raise ValueError("lora.cut_rank is set: say which blocks are at a cut")
    either = "|".join(map(str, sorted(at_cut)))
    return {rf"{family_of(model_type).blocks}\.({either})\..*": lora.cut_rank}


def attach_lora(model: PreTrainedModel, lora: LoraConfig, seed: int, at_cut: Collection[int] = ()) -> PreTrainedModel:
    """Insert trainable adapters in place; A is uniform as in peft, B zero. Blocks `at_cut` have `lora.cut_rank`.

    A is drawn from (seed, module name) row by row, so a split model starts from exactly the adapters of the whole one,
    and one of a lower rank from the first rows of a higher one's.
    Raises UserError when no module of the part has a target's name.
    """
    insert_lora(model, lora, at_cut)
    for name, parameter in adapter_parameters(model).items():
        if ".lora_A." in name:
            parameter.data = fresh_a(parameter.shape, f"{seed} {name}")
        parameter.data = parameter.data.float()  # adapters train in float32 whatever the model's dtype
        parameter.requires_grad_(True)
    return model


def fresh_a(shape: torch.Size, key: str) -> Tensor:
    """An A (rank, in) to begin with, uniform as in peft, drawn from `key` alone: seed and name, and what else tells."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def insert_lora(model: PreTrainedModel, lora: LoraConfig, at_cut: Collection[int] = ()) -> None:
    """Insert adapters with whatever values peft gives them; enough to count them. Raises UserError."""
    config = peft_config(model.config.model_type, lora, "", at_cut)
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(f"lora.target_modules={lora.target_modules}: {str(error).splitlines()[0][:200]}") from None


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter parameters by name, in the order of every flat vector."""
    named = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    return dict(sorted(named.items()))


def is_in_part(name: str, model_type: str, part: Part) -> bool:
    """Whether a parameter of the whole model belongs to a part."""
    family = family_of(model_type)
    block = re.search(rf"\.{family.blocks}\.(\d+)\.", name)
    if block:
        return part.first <= int(block[1]) < part.last
    return part.first == 0 if family.embedding in name.split(".") else part.lm_head


def without(parameters: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those parameters that are none of the others, in order."""
    left_out = set(map(id, others))
    return [parameter for parameter in parameters if id(parameter) not in left_out]


def adapter_shapes(config: Config, source: ModelSource, part: Part) -> list[torch.Size]:
    """Of a part's adapters, held anywhere or not, in the order of every flat vector."""
    model = outline_part(source, part)
    insert_lora(model, config.lora, cut_blocks(config, source.block_count))
    return [parameter.shape for parameter in adapter_parameters(model).values()]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One float32 vector (n,) of all elements in order, in host memory; a copy.

    With `unflatten_into` the only way of adapters between their device and averaging, which is on the host.
    """
    return to_host(torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]))


def unflatten_into(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write the vector (n,) of `flatten` back into `tensors`, in place."""
    offset, vector = 0, to_device(vector, tensors[0].device)
    for tensor in tensors:
        tensor.data.copy_(vector[offset : offset + tensor.numel()].view_as(tensor))
        offset += tensor.numel()
    if offset != vector.numel():
        raise ValueError(f"vector has {vector.numel()} elements, adapters {offset}")


def save_adapter(folder: Path, parameters: Mapping[str, Tensor], config: peft.LoraConfig) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "base_model.model." + name.replace(".default.", "."): tensor.detach().float().cpu().contiguous()
        for name, tensor in parameters.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    settings["inference_mode"] = True
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return getattr(value, "value", str(value))
