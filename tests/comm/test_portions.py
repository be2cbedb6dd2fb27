"""Batches dealt out among shards lose no sample, and come together in the order they had."""

import pytest
import torch

from splitcom_dist.comm.portions import Portion, deal, together, unlabelled


def batch(samples: int) -> Portion:
    lengths = torch.arange(1, samples + 1) % 4 + 1
    rows = torch.arange(int(lengths.sum()) * 2, dtype=torch.float32).view(-1, 2) + 1
    return Portion(rows, lengths, [torch.arange(length) for length in lengths.tolist()])


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_portions_come_together_as_the_batch_they_were(samples: int, shards: int) -> None:
    whole = batch(samples)
    portions = deal(whole, shards)
    assert len(portions) == shards
    assert all(len(portion.rows) == portion.lengths.sum() for portion in portions)
    assert sum(sum(map(len, portion.targets)) for portion in portions) == whole.lengths.sum()
    assert torch.equal(together([portion.rows for portion in portions], whole.lengths), whole.rows)
    largest = max(len(portion.lengths) for portion in portions)
    assert largest == -(-samples // shards), "no shard has more than its share"


def test_a_shard_without_a_sample_gets_zeros_to_compute_and_no_target() -> None:
    *_, idle = deal(batch(2), 3)
    assert idle.lengths.tolist() == [1] and not idle.rows.any() and [len(target) for target in idle.targets] == [0]


def test_samples_without_labels_stay_without() -> None:
    portions = deal(unlabelled(torch.ones(5, 2), torch.tensor([2, 3])), 2)
    assert [[len(target) for target in portion.targets] for portion in portions] == [[0], [0]]
