"""The two layouts of a batch's positions, and where its targets are predicted."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.ragged import row_mask, sample_index, target_rows, to_padded, to_ragged
from splitcom_dist.data.batching import collate
from splitcom_dist.data.tokens import Sample

lengths_lists = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@st.composite
def sample_lists(draw: st.DrawFn) -> list[Sample]:
    samples = []
    for index in range(draw(st.integers(1, 6))):
        tokens = draw(st.lists(st.integers(1, 50_000), min_size=2, max_size=12))
        start = draw(st.integers(1, len(tokens) - 1))
        samples.append(Sample(10 * index, np.array(tokens, np.int32), start))
    return samples


@given(sample_lists())
def test_target_rows_point_at_the_position_before_each_target(samples: list[Sample]) -> None:
    batch = collate(samples)
    # At each input position, the token a perfect model would predict there.
    following = torch.from_numpy(np.concatenate([sample.tokens[1:] for sample in samples]).astype(np.int64))
    target_lengths = torch.tensor([len(target) for target in batch.targets])
    rows = target_rows(batch.lengths, target_lengths)
    assert rows.dtype == torch.int64
    assert torch.equal(following[rows], torch.cat(batch.targets))
    owner = torch.arange(len(samples)).repeat_interleave(batch.lengths)
    assert torch.equal(owner[rows], torch.arange(len(samples)).repeat_interleave(target_lengths))


def test_more_targets_than_positions_never_reach_into_another_sample() -> None:
    with pytest.raises(ValueError, match="more targets"):
        target_rows(torch.tensor([3, 2]), torch.tensor([3, 3]))


@given(lengths_lists, st.integers(1, 4))
def test_ragged_and_padded_are_inverse(sizes: list[int], d: int) -> None:
    lengths = torch.tensor(sizes)
    ragged = torch.randn(sum(sizes), d)
    padded = to_padded(ragged, lengths)
    assert padded.shape == (len(sizes), max(sizes), d)
    assert torch.equal(to_ragged(padded, lengths), ragged)
    starts = np.cumsum([0, *sizes])
    for sample, piece in enumerate(ragged[a:b] for a, b in pairwise(starts)):
        assert torch.equal(padded[sample, : sizes[sample]], piece)
        assert not padded[sample, sizes[sample] :].any()


@given(st.integers(1, 5), st.integers(1, 9))
def test_where_nothing_is_padded_nothing_is_copied(samples: int, length: int) -> None:
    lengths = torch.full((samples,), length)
    ragged = torch.randn(samples * length, 3, requires_grad=True)
    padded = to_padded(ragged, lengths)
    assert padded.shape == (samples, length, 3) and padded.data_ptr() == ragged.data_ptr()
    again = to_ragged(padded, lengths)
    assert again.data_ptr() == ragged.data_ptr() and torch.equal(again, ragged)
    weights = torch.randn_like(again)
    (again * weights).sum().backward()
    assert ragged.grad is not None and torch.equal(ragged.grad, weights)


def test_ragged_takes_padding_wider_than_the_longest_sample() -> None:
    padded = torch.arange(12.0).view(2, 3, 2)
    assert to_ragged(padded, torch.tensor([1, 2])).tolist() == [[0, 1], [6, 7], [8, 9]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layouts_keep_the_dtype(dtype: torch.dtype) -> None:
    lengths = torch.tensor([2, 1])
    padded = to_padded(torch.ones(3, 4, dtype=dtype), lengths)
    assert padded.dtype == dtype and to_ragged(padded, lengths).dtype == dtype


@given(lengths_lists)
def test_gradients_pass_both_layouts_and_never_enter_padding(sizes: list[int]) -> None:
    lengths = torch.tensor(sizes)
    weight = torch.randn(sum(sizes), 3)
    ragged = torch.randn(sum(sizes), 3, requires_grad=True)
    loss = (to_ragged(to_padded(ragged, lengths), lengths) * weight).sum()
    assert torch.equal(torch.autograd.grad(loss, ragged)[0], weight)
    padded = torch.randn(len(sizes), max(sizes), 3, requires_grad=True)
    loss = (to_ragged(padded, lengths) * weight).sum()
    assert torch.equal(torch.autograd.grad(loss, padded)[0], to_padded(weight, lengths))


def test_rows_that_do_not_add_up_to_the_lengths_are_refused() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        to_padded(torch.zeros(4, 2), torch.tensor([2, 1]))


@given(lengths_lists)
def test_rows_know_their_sample(sizes: list[int]) -> None:
    lengths = torch.tensor(sizes)
    index = sample_index(lengths)
    assert torch.equal(torch.bincount(index, minlength=len(sizes)), lengths)
    for sample in range(len(sizes)):
        marked = torch.arange(len(sizes)) == sample
        assert torch.equal(row_mask(marked, lengths), index == sample)
