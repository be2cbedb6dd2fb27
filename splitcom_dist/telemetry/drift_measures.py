"""How far a sample has moved since its last visit: as a whole, without what dwarfs the rest, and by position."""

import torch
from torch import Tensor

from splitcom_dist.codec.ragged import sample_index
from splitcom_dist.telemetry.count_sketch import position_in_sample

BANDS = 12  # of positions: 0, 1, 2-3, 4-7, ... 512-1023, and all from 1024 on
PARTS = ("", "_no_first", "_no_massive", "_neither")  # the whole sample; without first position, massive channels, both


def band_of(positions: Tensor) -> Tensor:
    """The band of each position, from 0."""
    return torch.frexp(positions.double())[1].clamp_max(BANDS - 1).long()


def drift_measures(
    now: Tensor, before: Tensor, lengths: Tensor, target_starts: Tensor, massive: int
) -> dict[str, Tensor]:
    """Two visits (T, m + massive) of samples (B,), projected channels before massive ones -> columns of the table.

    (B,) each, rel_l2_position (B, BANDS); NaN where nothing is left of a sample. `target_starts` (B,) are -1 where
    unknown. A relative L2 is |now - before| / |now|.
    """
    now, before, index = now.double(), before.double(), sample_index(lengths)
    position, count = position_in_sample(lengths), len(lengths)
    split = [now.shape[1] - massive, massive]
    products = [
        torch.stack([part.sum(1) for part in product.split(split, dim=1)], dim=1)  # (T, 2): projected, massive
        for product in (now * now, before * before, now * before, (now - before) ** 2)
    ]
    sums = torch.stack(products, dim=2)  # (T, 2, 4)
    later = (position > 0).double().view(-1, 1, 1)
    whole, plain = sums.sum(1), sums[:, 0]
    measures = {}
    parts = (whole, whole * later[:, 0], plain, plain * later[:, 0])
    for name, part in zip(PARTS, parts, strict=True):
        square, square_before, product, change = _grouped(part, index, count).unbind(1)
        measures[f"cosine{name}"] = product / (square * square_before).sqrt()
        measures[f"rel_l2{name}"] = (change / square).sqrt()
    start = target_starts.repeat_interleave(lengths)
    for name, chosen in (("source", position < start), ("target", (position >= start) & (start >= 0))):
        pooled = _grouped(whole * chosen.unsqueeze(1), index, count)
        measures[f"rel_l2_{name}"] = (pooled[:, 3] / pooled[:, 0]).sqrt()
    pooled = _grouped(whole, index * BANDS + band_of(position), count * BANDS).view(count, BANDS, -1)
    measures["rel_l2_position"] = (pooled[..., 3] / pooled[..., 0]).sqrt().clamp_max(60_000)  # stored in 16 bits
    return measures


def _grouped(rows: Tensor, group: Tensor, count: int) -> Tensor:
    """Sums of rows (T, n) by group (T,): (count, n)."""
    return torch.zeros(count, rows.shape[1], dtype=rows.dtype).index_add_(0, group, rows)
