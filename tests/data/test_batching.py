"""The order of batches, and what a batch holds."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.data.batching import collate, epoch_batch, epoch_order
from splitcom_dist.data.tokens import Sample

# The order of an epoch


@given(st.integers(0, 100), st.integers(1, 17), st.integers(0, 2**33), st.integers(0, 50), st.integers(0, 9))
def test_an_epoch_visits_every_sample_once(count: int, batch_size: int, seed: int, client: int, epoch: int) -> None:
    batches = epoch_order(count, batch_size, seed, client, epoch)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    again = epoch_order(count, batch_size, seed, client, epoch)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]
    one_by_one = [epoch_batch(count, batch_size, seed, client, epoch, number) for number in range(len(batches))]
    assert [batch.tolist() for batch in one_by_one] == [batch.tolist() for batch in batches]


def test_a_batch_of_an_epoch_is_drawn_without_drawing_the_epoch_anew() -> None:
    batches = [epoch_batch(10_000, 8, seed=1, client=2, epoch=3, number=number) for number in range(2)]
    assert batches[0].base is batches[1].base is not None and not batches[0].flags.writeable


def test_seed_client_and_epoch_each_change_the_order() -> None:
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]
    orders = {tuple(np.concatenate(epoch_order(64, 8, *place)).tolist()) for place in places}
    assert len(orders) == len(places)


# Batches


def test_collate_makes_the_last_token_a_label_only() -> None:
    batch = collate([Sample(7, np.array([5, 6, 0, 8], np.int32), 2), Sample(9, np.array([1, 2], np.int32), 1)])
    assert batch.samples == [7, 9]
    assert batch.input_ids.tolist() == [[5, 6, 0], [1, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]
    assert [target.tolist() for target in batch.targets] == [[0, 8], [2]]
    tensors = [batch.input_ids, batch.lengths, *batch.targets]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
