"""The mean of the factors, each padded with zeros to one rank: HetLoRA (arXiv 2401.06432) without its norm weights.

A = sum_k w_k [A_k; 0] and B = sum_k w_k [B_k, 0]. B A differs from the mean of the products already for equal ranks, by
the cross terms w_j w_k B_j A_k; for unequal ones, whoever lacks a row also pulls it towards zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splitcom_dist.aggregate.factors import Factors, padded, weighted


def zero_pad(clients: Sequence[Factors], weights: Sequence[float], rank: int) -> Factors:
    """Factors of `rank`, at least the highest of the clients'. Raises ValueError without a weight."""
    shares = [(padded(client, rank), share) for client, share in weighted(clients, weights)]
    return Factors(sum_of([s * each.a for each, s in shares]), sum_of([s * each.b for each, s in shares]))


def sum_of(matrices: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(matrices)).sum(0)


def kept_alive(mean: Factors, before: Factors) -> Factors:
    """`mean`, with the rows of `before` where it has neither a row of A nor a column of B.

    In a round of low-rank clients alone nobody holds the higher rows. Left at zero they would have no gradient ever
    again, also with the clients that do hold them.
    """
    held = mean.a.ne(0).any(1) | mean.b.ne(0).any(0)
    return Factors(torch.where(held[:, None], mean.a, before.a), torch.where(held, mean.b, before.b))
