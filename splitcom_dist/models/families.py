"""Where each family of Hugging Face causal LMs keeps its embedding, blocks and final norm."""

from dataclasses import dataclass

from torch import nn

from splitcom_dist.errors import UserError


@dataclass(frozen=True)
class Family:
    """Attribute names inside the decoder (the module that owns the list of blocks)."""

    embedding: str
    blocks: str
    final: tuple[str, ...]  # what follows the last block, before the LM head
    positions: tuple[str, ...]  # modules whose output is added to the embedding
    entrance: tuple[str, ...]  # modules that a fresh embedding passes, and an activation from the cut must not
    lora_targets: tuple[str, ...]  # attention projections: the default of lora.target_modules
    tuple_blocks: bool = False  # whether a block returns a tuple that begins with the hidden states, or them alone


_LLAMA = Family("embed_tokens", "layers", ("norm",), (), (), ("q_proj", "v_proj"))

FAMILIES = {
    "gpt2": Family("wte", "h", ("ln_f",), ("wpe",), ("drop",), ("c_attn",)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "opt": Family(
        "embed_tokens",
        "layers",
        ("final_layer_norm", "project_out"),
        ("embed_positions",),
        ("project_in",),
        ("q_proj", "v_proj"),
    ),
    "gpt_neox": Family("embed_in", "layers", ("final_layer_norm",), (), ("emb_dropout",), ("query_key_value",)),
}


def register_family(model_type: str, family: Family) -> None:
    """Let models of this `model_type`, as in their config.json, be trained. Raises UserError if they are already."""
    if model_type in FAMILIES:
        raise UserError(f"model type '{model_type}' is supported already")
    FAMILIES[model_type] = family


def family_of(model_type: str) -> Family:
    """The layout of a model type; raises UserError naming the supported ones."""
    if model_type not in FAMILIES:
        raise UserError(
            f"model.name: model type '{model_type}' is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def decoder_of(model: nn.Module, family: Family) -> nn.Module:
    """The submodule that owns the list of blocks."""
    for module in model.modules():
        if isinstance(getattr(module, family.blocks, None), nn.ModuleList):
            return module
    raise UserError(f"model.name: no list of blocks named '{family.blocks}' in {type(model).__name__}")
