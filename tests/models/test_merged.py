"""Batches that enter at different depths of one forward are what they are each alone."""

from pathlib import Path

import pytest
import torch
from test_split import FAMILIES

from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.models.merged import forward_merged
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import body, forward_blocks, load_part


@pytest.mark.parametrize("cuts", [[2, 1, 3, 1], [1, 1], [3]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_forward_is_that_of_each_batch(family: str, cuts: list[int], model_folders: dict[str, Path]) -> None:
    source = find_model(str(model_folders[family]))
    model, generator = load_part(source, body(1, source.block_count), torch.float32), torch.Generator().manual_seed(0)
    lengths = [torch.tensor([5 + index, 2]) for index in range(len(cuts))]
    rows = [torch.randn(int(each.sum()), source.hidden_size, generator=generator) for each in lengths]

    def gradients(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        torch.stack([(output * weight).sum() for output, weight in zip(outputs, weights, strict=True)]).sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    leaves = [each.clone().requires_grad_() for each in rows]
    alone = [
        to_ragged(forward_blocks(model, activation=to_padded(leaf, length), first=cut), length)
        for leaf, length, cut in zip(leaves, lengths, cuts, strict=True)
    ]
    weights = [torch.randn_like(each) for each in alone]
    expected = gradients(alone)
    leaves = [each.clone().requires_grad_() for each in rows]
    merged = forward_merged(model, leaves, lengths, cuts)
    found = gradients(merged)
    assert len(expected) == len(found) == len(cuts)
    for one, other in zip([*alone, *expected], [*merged, *found], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
