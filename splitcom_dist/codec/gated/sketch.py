"""Random projections: what a client keeps of an activation it has sent (SplitCom, client cache)."""

import math

import torch
from torch import Tensor

from splitcom_dist.codec.ragged import sample_index
from splitcom_dist.devices import to_device


def projection(rows: int, width: int, seed: int) -> Tensor:
    """Gaussian projection (d, k), scaled by 1/sqrt(k) so that norms are kept in expectation (Johnson-Lindenstrauss).

    One projection serves every token; the sketch of a sample is its (tokens, k) matrix. Its cosine has the error of
    a projection with tokens * k rows: below (1 - rho^2) / sqrt(k), SplitCom's single projection of k rows.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, rows, generator=generator) / math.sqrt(rows)


def token_measures(now: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token's two sketches, (T, k) both: their products <now, reference>, |now|^2 and |reference|^2 (3, T) in
    float64, and ||now - reference|| / ||now|| (T,)."""
    pairs = ((now, reference), (now, now), (reference, reference))
    products = torch.stack([(left.double() * right.double()).sum(dim=1) for left, right in pairs])
    change: Tensor = torch.linalg.vector_norm(now - reference, dim=1)
    size: Tensor = torch.linalg.vector_norm(now, dim=1)
    return products, change / size.clamp_min(torch.finfo(torch.float32).tiny)


def sample_cosine(products: Tensor, lengths: Tensor) -> Tensor:
    """Cosine of each sample's two sketches, flattened over tokens, from their tokens' products: (3, T), (B,) -> (B,);
    0 against zeros."""
    index = to_device(sample_index(lengths), products.device)
    sums = products.new_zeros(3, len(lengths))
    for total, of_tokens in zip(sums, products, strict=True):  # one by one: of vectors torch has a fast way
        total.index_add_(0, index, of_tokens)
    return sums[0] / (sums[1] * sums[2]).sqrt().clamp_min(torch.finfo(torch.float64).tiny)


def token_gain(now: Tensor, reference: Tensor) -> Tensor:
    """What each token's reference is to be multiplied by to come nearest to it: (T, k), (T, k) -> (T,), 0 for zeros.

    Two vectors of one direction have the exact ratio of their norms, which a cosine does not see.
    """
    along = (now * reference).sum(dim=1)
    return along / reference.square().sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
