"""The mean of the products, cut off at a rank by its singular values: HLoRA (arXiv 2503.00813), FlexLoRA.

sum_k w_k B_k A_k = U S V^T; B = U S and A = V^T, the largest singular values first. Of all matrices of that rank none
is nearer (Eckart-Young), and the first r rows and columns are the nearest of rank r for whichever r a client has. It is
exact where the mean of the products has no higher rank: with all factors stacked that is at most the sum of the ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splitcom_dist.aggregate.factors import Factors, truncated
from splitcom_dist.aggregate.stack import stack


def svd(clients: Sequence[Factors], weights: Sequence[float], rank: int) -> Factors:
    """Factors of `rank`, or fewer where all clients' together are fewer or the weight is smaller.

    The product itself is never made: with B = P R and A^T = Q T (QR of the stacked factors) its singular values are
    those of the small R T^T. In float64, and rows of A have length 1, so that those of a zero column of B can still
    train. Raises ValueError without a weight.
    """
    stacked = stack(clients, weights)
    p, r = torch.linalg.qr(stacked.b.double())
    q, t = torch.linalg.qr(stacked.a.double().T)
    u, s, vh = torch.linalg.svd(r @ t.T, full_matrices=False)
    exact = Factors((vh @ q.T).to(stacked.a.dtype), (p @ (u * s)).to(stacked.b.dtype))
    return truncated(exact, rank)


def factored(change: Tensor, precision: float) -> Factors:
    """Factors of a change (out, in), of the rank of its singular values above `precision`, at least 1."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    return truncated(Factors(vh, u * s), max(1, int((s > precision).sum())))


def filled(factors: Factors, fresh: Factors) -> Factors:
    """Up to the rank of `fresh`, with its last rows of A and columns of zeros in B: the product stays.

    Where all clients of a round together have too low a rank. With zeros in both factors these rows would never train.
    """
    count = factors.rank
    return Factors(
        torch.cat([factors.a, fresh.a[count:]]),
        torch.cat([factors.b, torch.zeros_like(fresh.b[:, count:])], dim=1),
    )
