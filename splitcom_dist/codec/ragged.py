"""Ragged batches: the rows (T, d) of several samples one after another, with their lengths (B,)."""

import torch
from torch import Tensor

from splitcom_dist.devices import to_device


def row_mask(samples: Tensor, lengths: Tensor) -> Tensor:
    """Rows that belong to the marked samples: (B,) bool, (B,) -> (T,) bool."""
    return samples.repeat_interleave(lengths)


def rows_of(samples: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
    """The rows (T, ...) of the marked samples, in order; `samples` and `lengths` are on the host, `rows` anywhere."""
    return rows.index_select(0, to_device(row_mask(samples, lengths).nonzero().flatten(), rows.device))


def sample_index(lengths: Tensor) -> Tensor:
    """The sample of each row: (B,) -> (T,)."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def to_ragged(padded: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, d) padded on the right -> the real rows (T, d), a view where nothing is padded; differentiable."""
    if _is_full(lengths, padded.shape[1]):
        return padded.flatten(0, 1)
    positions = to_device(_real_positions(lengths, padded.shape[1]), padded.device)
    return padded.flatten(0, 1).index_select(0, positions)


def to_padded(rows: Tensor, lengths: Tensor) -> Tensor:
    """(T, d) -> (B, max length, d), zeros behind each sample: the inverse of `to_ragged`, a view where it is one."""
    longest = int(lengths.max())
    if _is_full(lengths, longest):
        return rows.reshape(len(lengths), longest, rows.shape[1])
    positions = to_device(_real_positions(lengths, longest), rows.device)
    flat = rows.new_zeros(len(lengths) * longest, rows.shape[1])
    return flat.index_copy(0, positions, rows).view(len(lengths), longest, rows.shape[1])


def target_rows(lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Rows of (T, d) at which targets are predicted: the last `target_lengths` rows of each sample; (N,).

    Raises ValueError where a sample has more targets than positions: its rows would be another sample's.
    """
    if bool((target_lengths > lengths).any()):
        raise ValueError("a sample has more targets than input positions")
    # Targets end where their sample ends: within a sample, row and running number differ by a constant.
    shift = lengths.cumsum(0) - target_lengths.cumsum(0)
    numbers = torch.arange(int(target_lengths.sum()), device=lengths.device)
    return numbers + shift.repeat_interleave(target_lengths)


def _is_full(lengths: Tensor, width: int) -> bool:
    """Whether all samples are as long as the grid is wide: of a packed corpus every batch."""
    return bool((lengths == width).all())


def _real_positions(lengths: Tensor, width: int) -> Tensor:
    """Where real rows lie in the flattened (B * width,) grid."""
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).flatten().nonzero().flatten()
