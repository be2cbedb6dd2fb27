"""All clients' factors one behind the other: FLoRA (arXiv 2409.05976).

A = [A_1; ...; A_K] and B = [w_1 B_1, ..., w_K B_K], so that B A = sum_k w_k B_k A_k with no error but rounding, at a
rank that is the sum of the clients'. FLoRA merges B A into the weights and begins every round with new factors.
"""

from collections.abc import Sequence

import torch

from splitcom_dist.aggregate.factors import Factors, weighted


def stack(clients: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Factors of the clients' ranks together. Raises ValueError without a weight."""
    shares = list(weighted(clients, weights))
    return Factors(
        torch.cat([client.a for client, _ in shares]),
        torch.cat([share * client.b for client, share in shares], dim=1),
    )
