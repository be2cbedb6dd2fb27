"""Blocks that a forward pass leaves out: those that are another rank's, and those that are another depth's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from splitcom_dist.models.families import Family, decoder_of, family_of


class AbsentBlock(nn.Module):
    """Stands where another rank's block would be."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._tuple = family.tuple_blocks

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor, ...]:
        return (hidden,) if self._tuple else hidden


@contextmanager
def only_blocks(decoder: nn.Module, first: int, last: int | None) -> Iterator[None]:
    """Within this, all blocks but `first..last-1` (None: to the end) pass through what they are given, and so does what
    follows the last block where they end before it.

    No weight is copied or moved; parameters that autograd has met keep their names and places.
    """
    family = family_of(cast(Any, decoder).config.model_type)
    owner = decoder_of(decoder, family)
    blocks = cast(nn.ModuleList, getattr(owner, family.blocks))
    inside = range(first, len(blocks) if last is None else last)
    passed = {
        index: block for index, block in enumerate(blocks) if index not in inside and not isinstance(block, AbsentBlock)
    }
    behind = family.final if inside.stop < len(blocks) else ()
    final = {name: module for name in behind if (module := getattr(owner, name, None)) is not None}
    try:
        for name in final:
            setattr(owner, name, nn.Identity())
        for index in passed:
            blocks[index] = AbsentBlock(family)
        yield
    finally:
        for index, block in passed.items():
            blocks[index] = block
        for name, module in final.items():
            setattr(owner, name, module)
