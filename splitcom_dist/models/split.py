"""One part of a Hugging Face causal LM: the blocks a rank owns, with every absent block passed through.

Names stay those of the whole model, so LoRA targets, adapter files and checkpoints need no translation, and the
forward pass is Hugging Face's own (masks, rotary embeddings, sliding windows). The absent rooms are removed while
the model is still without storage, so their weights are never read from disk.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.config.implied import head_trains
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import client_cuts
from splitcom_dist.errors import UserError
from splitcom_dist.models.block_range import AbsentBlock, only_blocks
from splitcom_dist.models.families import Family, decoder_of, family_of
from splitcom_dist.models.sources import ModelSource, causal_lm_class


@dataclass(frozen=True)
class Part:
    """Blocks `first..last-1`; the embedding in front if first is 0, final norm and LM head behind if `lm_head`."""

    first: int
    last: int
    lm_head: bool


def head(cut_layer: int) -> Part:
    return Part(0, cut_layer, lm_head=False)


def body(cut_layer: int, block_count: int, tail_layers: int = 0) -> Part:
    return Part(cut_layer, block_count - tail_layers, lm_head=not tail_layers)


def tail(block_count: int, tail_layers: int) -> Part:
    return Part(block_count - tail_layers, block_count, lm_head=True)


def whole(block_count: int) -> Part:
    return Part(0, block_count, lm_head=True)


def parts_of(cut_layer: int, block_count: int, tail_layers: int) -> dict[str, Part]:
    """Every part of a run's shape by name, the whole model among them."""
    parts = {"head": head(cut_layer), "body": body(cut_layer, block_count, tail_layers), "whole": whole(block_count)}
    return parts | ({"tail": tail(block_count, tail_layers)} if tail_layers else {})


def cuts_of(config: Config, block_count: int) -> frozenset[int]:
    """Every cut that a run has or may come to, by the block behind it; in the U-shape also that before the tail."""
    tail, cuts = config.model.tail_layers, client_cuts(config)
    those = range(cuts.shallowest, cuts.deepest + 1) if cuts.move_about else cuts.of_clients
    return frozenset({*those} | ({block_count - tail} if tail else set()))


def blocks_at(cuts: Iterable[int]) -> frozenset[int]:
    """The blocks next to any of the cuts: the last one before it and the first one behind it."""
    return frozenset(block for cut in cuts for block in (cut - 1, cut))


def cut_blocks(config: Config, block_count: int) -> frozenset[int]:
    """The blocks next to any cut of a run, whose LoRA rank may be lower."""
    return blocks_at(cuts_of(config, block_count))


HELD_BY = {
    "client": ("head", "tail"),
    "server": ("body",),
    "shard": ("body",),
    "aggregator": ("whole",),
}  # parts by role, if they exist


def parts_held(config: Config, clients: Sequence[int], block_count: int) -> dict[str, Part]:
    """As `parts_of`, of a rank with these clients: its head is that of the deepest cut, the body begins at the
    shallowest cut of all. Ranks without clients hold no head; theirs is what all clients train."""
    cuts = client_cuts(config)
    parts = parts_of(cuts.shallowest, block_count, config.model.tail_layers)
    return parts | ({"head": head(cuts.deepest_of(clients))} if clients else {})


def trained_by_clients(config: Config) -> list[str]:
    """The parts whose adapters clients train and average: a frozen head's only where there is nothing else."""
    tail = ["tail"] if config.model.tail_layers else []
    return ["head", *tail] if head_trains(config) or not tail else tail


class NoPositions(nn.Module):
    """Adds nothing: an activation from the cut carries its positions already."""

    def forward(self, *places: Any, **named: Any) -> Tensor:
        told = [place for place in (*places, *named.values()) if isinstance(place, Tensor)]
        return torch.zeros((), device=told[0].device if told else None)


def check_cuts(config: Config, block_count: int) -> None:
    """Raise UserError unless every client's head and body keep at least one block each."""
    key = "model.cut_layer" if config.fed.cut_layers is None else "fed.cut_layers"
    cuts = client_cuts(config)
    for cut_layer in sorted(set(cuts.of_clients)):
        check_cut(cut_layer, block_count, config.model.tail_layers, key)
    check_cut(cuts.deepest, block_count, config.model.tail_layers, "fed.cuts.deepest")


def check_cut(cut_layer: int, block_count: int, tail_layers: int = 0, key: str = "model.cut_layer") -> None:
    """Raise UserError, naming `key`, unless head and body keep at least one block each."""
    if not 1 <= cut_layer < block_count:
        raise UserError(f"{key}={cut_layer}: the model has {block_count} blocks, choose 1 to {block_count - 1}")
    if cut_layer + tail_layers >= block_count:
        raise UserError(
            f"model.tail_layers={tail_layers}: with {key}={cut_layer} nothing of the model's {block_count} "
            f"blocks is left to the server, choose 0 to {block_count - cut_layer - 1}"
        )


def load_part(source: ModelSource, part: Part, dtype: torch.dtype) -> PreTrainedModel:
    """Materialise `part` of the model with frozen weights, in training mode.

    Only tensors of the part are read (safetensors are memory-mapped). A tied LM head brings the embedding matrix
    with it: there it is the same parameter. Raises UserError when weights are missing or unreadable.
    """
    config = source.config
    family = family_of(config.model_type)
    model_class = _with_absent_rooms(causal_lm_class(config), part, family)
    try:
        model, report = model_class.from_pretrained(source.folder, config=config, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"model.name={source.name}: cannot load weights: {' '.join(str(error).split())[:300]}"
        ) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"model.name={source.name}: weights lack {missing[0]} and {len(missing) - 1} more")
    model.requires_grad_(False)
    return cast(PreTrainedModel, model.train())


def tie_tail(first: PreTrainedModel, last: PreTrainedModel) -> None:
    """Make a client's head and tail share the embedding matrix, where the model ties its LM head to it."""
    if first.config.tie_word_embeddings:
        last.get_input_embeddings().weight = last.lm_head.weight = first.get_input_embeddings().weight


def outline_part(source: ModelSource, part: Part) -> PreTrainedModel:
    """The part without storage: to count what a rank would hold."""
    family = family_of(source.config.model_type)
    with torch.device("meta"):
        return _with_absent_rooms(causal_lm_class(source.config), part, family)(source.config)


def forward_blocks(
    model: nn.Module,
    *,
    input_ids: Tensor | None = None,
    activation: Tensor | None = None,
    first: int = 0,
    last: int | None = None,
) -> Tensor:
    """Run a part without its LM head: (B, L) ids or (B, L, d) activation -> (B, L, d).

    Of its blocks only `first..last-1`: an activation enters where it was cut. Rows are padded on the right only, so
    under a causal mask no real position sees a pad and no mask is needed.
    """
    decoder = cast(Any, model).base_model
    with only_blocks(decoder, first, last):
        output = decoder(input_ids=input_ids, inputs_embeds=activation, use_cache=False)
    return cast(Tensor, output.last_hidden_state)


def resident_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers this rank holds of a part; shared ones count once."""
    return sum(_held_bytes(tensor) for tensor in [*model.parameters(), *model.buffers()])


def _held_bytes(tensor: Any) -> int:
    """Of a weight that several ranks share this rank's slice, with what evens it up."""
    return int(tensor.to_local().untyped_storage().nbytes() if hasattr(tensor, "to_local") else tensor.nbytes)


def _with_absent_rooms(base: type[PreTrainedModel], part: Part, family: Family) -> type[PreTrainedModel]:
    """A subclass of the model whose constructor empties the rooms that `part` does not own."""

    def __init__(self: Any, config: Any) -> None:
        base.__init__(self, config)
        decoder = decoder_of(self, family)
        blocks = cast(nn.ModuleList, getattr(decoder, family.blocks))
        for index in range(len(blocks)):
            if not part.first <= index < part.last:
                blocks[index] = AbsentBlock(family)
        if part.first > 0:
            for name in family.positions:
                setattr(decoder, name, NoPositions())
            _bypass(decoder, family.entrance)
            if not (config.tie_word_embeddings and part.lm_head):
                setattr(decoder, family.embedding, None)
        if not part.lm_head:
            _bypass(decoder, family.final)
            self.lm_head = None
            self.all_tied_weights_keys = {}  # else loading would look for the absent LM head
            if part.first > 0:  # neither end of the tie is here
                self.config = copy.copy(config)
                self.config.tie_word_embeddings = False

    # The class keeps its name and module: Hugging Face looks up the conversion of old checkpoint keys by them.
    return type(
        base.__name__,
        (base,),
        {
            "__init__": __init__,
            "__module__": base.__module__,
            "_keys_to_ignore_on_load_unexpected": [".*"],  # the other parts' weights are no surprise
        },
    )


def _bypass(decoder: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(decoder, name, None) is not None:
            setattr(decoder, name, nn.Identity())
