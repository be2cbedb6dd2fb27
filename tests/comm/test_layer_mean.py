"""The mean of layers of which several ranks hold copies is taken layer by layer, over those that have trained it."""

import pytest
import torch
from torch import Tensor

from splitcom_dist.comm.layer_mean import LayerMean, layer_mean_bytes

SIZES = [2, 3, 1]


class Others:
    """A circle in which the others' sum is known."""

    def __init__(self, told: Tensor) -> None:
        self.told = told

    def sum(self, buffer: Tensor, step: int) -> int:
        own = buffer.clone()
        buffer += self.told
        self.told = own
        return buffer.nbytes


def nobody() -> Others:
    return Others(torch.zeros(sum(SIZES) + len(SIZES)))


def test_each_layer_is_averaged_over_those_who_train_it() -> None:
    """A deep client, a shallow one, and a server that trains the last layers for the shallow one alone."""
    mean = LayerMean(SIZES, nobody())
    mean.add(torch.tensor([1.0, 2, 3, 4, 5, 6]), [10, 10, 10])
    mean.add(torch.tensor([5.0, 6]), [30])
    mean.add(torch.tensor([100.0, 100, 7, 8, 9, 10]), [0, 30, 30])
    found, weight, size = mean.mean(0)
    assert torch.allclose(found, torch.tensor([4.0, 5, 6, 7, 8, 9]))
    assert weight == 40
    assert size == layer_mean_bytes(SIZES) == 4 * 9
    assert [mean.elements(layers) for layers in range(4)] == [0, 2, 5, 6]


def test_what_was_added_counts_in_one_mean_only() -> None:
    mean = LayerMean(SIZES, nobody())
    mean.add(torch.ones(6), [1, 1, 1])
    mean.mean(0)
    mean._circle = nobody()
    found, weight, _ = mean.mean(1)
    assert weight == 0 and torch.equal(found, torch.zeros(6)), "nothing to go on from"


def test_what_others_give_counts_by_their_weights() -> None:
    others = LayerMean(SIZES, circle := nobody())
    others.add(torch.full((6,), 3.0), [1, 1, 1])
    others.mean(0)
    mean = LayerMean(SIZES, circle)
    mean.add(torch.full((2,), 1.0), [3])
    found, weight, _ = mean.mean(0)
    assert found.tolist() == pytest.approx([1.5, 1.5, 3, 3, 3, 3])
    assert weight == 4
