"""Gates: which samples of a batch are sent anew. A gate sees sketches or nothing; it never changes the store."""

from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.sketch import sample_cosine, token_relative_l2


@dataclass(frozen=True)
class Similarity:
    """How near a batch is to its references, a value a sample (B,); NaN where there is no reference yet."""

    cosine: Tensor
    relative_l2: Tensor  # (4, B): quantiles 0.1, 0.5, 0.9 and 1 over the sample's tokens


def compare(now: Tensor, reference: Tensor, lengths: Tensor, known: Tensor) -> Similarity:
    """Similarity of sketches (T, k) to reference sketches (T, k); rows of unknown samples are not read."""
    cosine = sample_cosine(now, reference, lengths)
    levels = torch.tensor([0.1, 0.5, 0.9, 1.0])
    change = token_relative_l2(now, reference).split(lengths.tolist())
    relative_l2 = torch.stack([torch.quantile(tokens, levels) for tokens in change], dim=1)
    unknown = ~known
    return Similarity(cosine.masked_fill(unknown, torch.nan), relative_l2.masked_fill(unknown, torch.nan))


def cosine_gate(similarity: Similarity, theta: float) -> Tensor:
    """SplitCom's rule: skip where cosine > theta, else send; (B,) bool, True = send. NaN always sends."""
    return ~(similarity.cosine > theta)
