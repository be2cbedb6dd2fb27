"""A sketch tells cosines and distances of samples within the error that its length promises."""

import math

import numpy as np
import pytest
import torch

from splitcom_dist.telemetry.count_sketch import CountSketch, position_in_sample


def samples(count: int, tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of samples with a massive channel and position, and the same a little changed."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count * tokens, width, generator=generator)
    rows[:, 3] *= 20
    rows[::tokens] *= 5
    return rows, rows + 0.2 * rows.norm() / rows.numel() ** 0.5 * torch.randn(rows.shape, generator=generator)


@pytest.mark.parametrize("k", [64, 1024])
def test_cosines_of_sketches_are_those_of_the_samples(k: int) -> None:
    count, tokens, width = 60, 20, 32
    now, before = samples(count, tokens, width)
    lengths = torch.full((count,), tokens)
    sketch = CountSketch(k, width, 50)
    found = torch.cosine_similarity(sketch(now, lengths), sketch(before, lengths))
    true = torch.cosine_similarity(now.view(count, -1), before.view(count, -1))
    promised = float((1 - true**2).mean()) / math.sqrt(k)
    assert float((found - true).square().mean().sqrt()) < 1.3 * promised
    assert abs(float((found - true).mean())) < promised / 2, "no bias"
    assert float((found - true).abs().max()) > 0, "a sketch that is exact was not sketched"


def test_equal_rows_have_equal_sketches_in_any_batch_and_in_runs_of_other_lengths() -> None:
    rows = samples(3, 7, 16)[0]
    lengths = torch.tensor([7, 7, 7])
    together = CountSketch(32, 16, 7)(rows, lengths)
    alone = CountSketch(32, 16, 99)(rows[7:14], lengths[:1])
    assert torch.equal(together[1], alone[0])


def test_positions_and_channels_are_told_apart() -> None:
    """The same row at another position, or in other channels, is another sample."""
    rows = torch.zeros(4, 8)
    rows[0, 1] = rows[3, 1] = 1
    two = CountSketch(256, 8, 2)(rows, torch.tensor([2, 2]))
    assert torch.cosine_similarity(two[0], two[1], dim=0).abs() < 0.5
    assert two.abs().sum(1).tolist() == [1, 1]
    assert np.array_equal(position_in_sample(torch.tensor([2, 1, 3])), [0, 1, 0, 0, 1, 2])
