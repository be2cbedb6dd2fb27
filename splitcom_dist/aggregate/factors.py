"""The two factors of one adapted weight, alone and as they lie in a flat vector of many."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Size, Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Factors:
    """A (rank, in) and B (out, rank) of the change B A (out, in) of one weight."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def product(self) -> Tensor:
        """The change (out, in)."""
        return self.b @ self.a


def truncated(factors: Factors, rank: int) -> Factors:
    """The first `rank` rows of A and columns of B; all of them if there are no more."""
    return Factors(factors.a[:rank], factors.b[:, :rank])


def padded(factors: Factors, rank: int) -> Factors:
    """With rows of zeros below A and columns of zeros behind B up to `rank`; the product stays.

    Where both are zero so are both gradients (dA = B^T G, dB = G A^T): what is padded never trains, nor drifts under
    weight decay.
    """
    missing = rank - factors.rank
    return Factors(pad(factors.a, (0, 0, 0, missing)), pad(factors.b, (0, missing)))


def split(vector: Tensor, shapes: Sequence[Size]) -> list[Factors]:
    """The factors in a flat vector (n,) of adapters, whose shapes are in turn those of an A and of its B; views."""
    sizes = [prod(shape) for shape in shapes]
    matrices = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
    return [Factors(a, b) for a, b in zip(matrices[::2], matrices[1::2], strict=True)]


def joined(factors: Sequence[Factors]) -> Tensor:
    """The flat vector (n,) of which `split` gives the factors; a copy."""
    return torch.cat([matrix.reshape(-1) for each in factors for matrix in (each.a, each.b)])


def weighted(clients: Sequence[Factors], weights: Sequence[float]) -> Iterator[tuple[Factors, float]]:
    """Every client's factors with its share of the weights. Raises ValueError if there is no weight."""
    total = sum(weights)
    if total <= 0:
        raise ValueError("no client has a weight: there is no mean")
    for client, weight in zip(clients, weights, strict=True):
        yield client, weight / total
