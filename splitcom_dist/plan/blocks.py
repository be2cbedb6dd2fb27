"""What a decoder block of each family computes and holds, from the Hugging Face configuration alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from splitcom_dist.errors import UserError
from splitcom_dist.models.families import family_of


@dataclass(frozen=True)
class Linear:
    """A frozen projection; `path` is its module's name inside a block."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    makes: str = ""  # attention inputs that it computes: letters of "qkv"

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + self.bias * self.outputs


@dataclass(frozen=True)
class BlockShape:
    """One block: projections that read its input, then attention, then what follows."""

    attention: tuple[Linear, ...]
    output: Linear
    mlp_inner: tuple[Linear, ...]  # all read the MLP's input
    mlp_output: Linear
    heads: int
    head_dim: int
    norm_parameters: int
    parallel: bool = False  # the MLP reads the block's input, not the attention's output

    @property
    def linears(self) -> tuple[Linear, ...]:
        return (*self.attention, self.output, *self.mlp_inner, self.mlp_output)


@dataclass(frozen=True)
class ModelShape:
    """A causal LM: equal blocks between an embedding and an LM head. Parameters are counts."""

    family: str
    hidden: int
    vocabulary: int
    blocks: int
    block: BlockShape
    embedding_parameters: int  # the matrix, positions and what a fresh embedding passes
    embedding_matrix: int  # of those, what a tied LM head shares
    final_parameters: int  # norm and projection behind the last block
    lm_head_parameters: int  # 0 when tied
    entrance: Linear | None = None  # OPT: from the embedding's width to the blocks'
    exit: Linear | None = None  # and back, before the LM head


def model_shape(config: Any) -> ModelShape:
    """The shape of a transformers configuration; UserError for a family that is not supported."""
    name = config.model_type
    family_of(name)
    if name not in _BLOCKS:
        raise UserError(f"model type '{name}' is an extension's: its operations cannot be counted, so not planned with")
    block = _BLOCKS[name](config)
    hidden, vocabulary = int(config.hidden_size), int(config.vocab_size)
    width = int(getattr(config, "word_embed_proj_dim", hidden))
    entrance = Linear("project_in", width, hidden, False) if width != hidden else None
    leave = Linear("project_out", hidden, width, False) if width != hidden else None
    positions = {"gpt2": 0, "opt": 2}  # OPT's table of positions starts at 2
    table = (int(config.max_position_embeddings) + positions[name]) * hidden if name in positions else 0
    matrix = vocabulary * width
    has_final = name != "opt" or (config.do_layer_norm_before and not config._remove_final_layer_norm)
    return ModelShape(
        family=name,
        hidden=hidden,
        vocabulary=vocabulary,
        blocks=int(config.num_hidden_layers),
        block=block,
        embedding_parameters=matrix + table + (entrance.parameters if entrance else 0),
        embedding_matrix=matrix,
        final_parameters=block.norm_parameters // 2 * has_final + (leave.parameters if leave else 0),
        lm_head_parameters=0 if config.tie_word_embeddings else matrix,
        entrance=entrance,
        exit=leave,
    )


def _gpt2(config: Any) -> BlockShape:
    width, inner = config.hidden_size, config.n_inner or 4 * config.hidden_size
    return BlockShape(
        attention=(Linear("attn.c_attn", width, 3 * width, True, "qkv"),),
        output=Linear("attn.c_proj", width, width, True),
        mlp_inner=(Linear("mlp.c_fc", width, inner, True),),
        mlp_output=Linear("mlp.c_proj", inner, width, True),
        heads=config.num_attention_heads,
        head_dim=width // config.num_attention_heads,
        norm_parameters=4 * width,
    )


def _llama(config: Any) -> BlockShape:
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    dim = getattr(config, "head_dim", None) or width // heads
    keys = config.num_key_value_heads * dim
    qwen = config.model_type == "qwen2"
    bias, mlp_bias = getattr(config, "attention_bias", False), getattr(config, "mlp_bias", False)
    return BlockShape(
        attention=(
            Linear("self_attn.q_proj", width, heads * dim, qwen or bias, "q"),
            Linear("self_attn.k_proj", width, keys, qwen or bias, "k"),
            Linear("self_attn.v_proj", width, keys, qwen or bias, "v"),
        ),
        output=Linear("self_attn.o_proj", heads * dim, width, bias),
        mlp_inner=(
            Linear("mlp.gate_proj", width, inner, mlp_bias),
            Linear("mlp.up_proj", width, inner, mlp_bias),
        ),
        mlp_output=Linear("mlp.down_proj", inner, width, mlp_bias),
        heads=heads,
        head_dim=dim,
        norm_parameters=2 * width,
    )


def _opt(config: Any) -> BlockShape:
    width, bias = config.hidden_size, config.enable_bias
    return BlockShape(
        attention=tuple(Linear(f"self_attn.{letter}_proj", width, width, bias, letter) for letter in "qkv"),
        output=Linear("self_attn.out_proj", width, width, bias),
        mlp_inner=(Linear("fc1", width, config.ffn_dim, bias),),
        mlp_output=Linear("fc2", config.ffn_dim, width, bias),
        heads=config.num_attention_heads,
        head_dim=width // config.num_attention_heads,
        norm_parameters=4 * width * config.layer_norm_elementwise_affine,
    )


def _gpt_neox(config: Any) -> BlockShape:
    width, inner, bias = config.hidden_size, config.intermediate_size, config.attention_bias
    return BlockShape(
        attention=(Linear("attention.query_key_value", width, 3 * width, bias, "qkv"),),
        output=Linear("attention.dense", width, width, bias),
        mlp_inner=(Linear("mlp.dense_h_to_4h", width, inner, True),),
        mlp_output=Linear("mlp.dense_4h_to_h", inner, width, True),
        heads=config.num_attention_heads,
        head_dim=width // config.num_attention_heads,
        norm_parameters=4 * width,
        parallel=config.use_parallel_residual,
    )


_BLOCKS: dict[str, Callable[[Any], BlockShape]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "opt": _opt,
    "gpt_neox": _gpt_neox,
}
