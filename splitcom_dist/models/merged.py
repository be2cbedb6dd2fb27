"""Several batches in one forward, each entering at its own depth: blocks behind the deepest cut see all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.models.split import forward_blocks


def forward_merged(
    model: nn.Module, rows: Sequence[Tensor], lengths: Sequence[Tensor], cuts: Sequence[int]
) -> list[Tensor]:
    """Rows (T_i, d) of samples of these lengths (B_i,), cut after so many blocks -> rows behind the last block.

    A row's values are those of a forward of its batch alone, but for rounding, and so are the gradients.
    """
    depths = sorted(set(cuts))
    inside: list[int] = []  # batches, in the order in which they have entered
    hidden = rows[0][:0]
    for depth, last in zip(depths, [*depths[1:], None], strict=True):
        entering = [index for index, cut in enumerate(cuts) if cut == depth]
        inside += entering
        hidden = torch.cat([hidden, *(rows[index] for index in entering)])
        together = torch.cat([lengths[index] for index in inside])
        padded = forward_blocks(model, activation=to_padded(hidden, together), first=depth, last=last)
        hidden = to_ragged(padded, together)
    parts = hidden.split([len(rows[index]) for index in inside])
    return [part for _, part in sorted(zip(inside, parts, strict=True), key=lambda pair: pair[0])]
