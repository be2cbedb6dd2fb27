"""Ragged batches: the rows (T, d) of several samples one after another, with their lengths (B,)."""

import torch
from torch import Tensor


def sample_index(lengths: Tensor) -> Tensor:
    """The sample of each row: (B,) -> (T,)."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def row_mask(samples: Tensor, lengths: Tensor) -> Tensor:
    """Rows that belong to the marked samples: (B,) bool, (B,) -> (T,) bool."""
    return torch.repeat_interleave(samples, lengths)


def to_ragged(padded: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, d) padded on the right -> the real rows (T, d); differentiable."""
    positions = torch.arange(padded.shape[1], device=padded.device)
    return padded[positions < lengths.to(padded.device).unsqueeze(1)]


def to_padded(rows: Tensor, lengths: Tensor) -> Tensor:
    """(T, d) -> (B, max length, d) with zeros behind each sample; differentiable."""
    lengths = lengths.to(rows.device)
    longest = int(lengths.max())
    positions = torch.arange(longest, device=rows.device)
    padded = rows.new_zeros(len(lengths), longest, rows.shape[1])
    return padded.index_put((positions < lengths.unsqueeze(1)).nonzero(as_tuple=True), rows)


def target_rows(lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Rows of (T, d) at which targets are predicted: the last `target_lengths` rows of each sample; (N,)."""
    ends = lengths.cumsum(0)
    first = torch.repeat_interleave(ends - target_lengths, target_lengths)
    starts = target_lengths.cumsum(0) - target_lengths
    return first + torch.arange(len(first)) - torch.repeat_interleave(starts, target_lengths)
