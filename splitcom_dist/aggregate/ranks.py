"""What clients of different ranks hold of one adapter: each of its factors up to the client's own rank."""

from collections.abc import Sequence
from math import prod

from torch import Size, Tensor

from splitcom_dist.aggregate.factors import Factors, joined, padded, split, truncated
from splitcom_dist.aggregate.zero_pad import kept_alive


class Ranks:
    """`ranks` of the logical clients, None where all hold the whole adapter; `shapes` of its A's and B's in turn."""

    def __init__(self, ranks: Sequence[int] | None, shapes: Sequence[Size]) -> None:
        self.shapes = list(shapes)
        self._ranks = ranks

    def share(self, adapter: Tensor, client: int) -> Tensor:
        """Of the adapter (n,) what a client trains, with zeros (which do not train) for the rest."""
        if self._ranks is None:
            return adapter
        return joined([padded(truncated(each, self._ranks[client]), each.rank) for each in split(adapter, self.shapes)])

    def kept(self, mean: Tensor, before: Tensor) -> Tensor:
        """The mean (n,) of padded adapters, with the rows of the one before it that nobody held."""
        if self._ranks is None:
            return mean
        pairs = zip(split(mean, self.shapes), split(before, self.shapes), strict=True)
        return joined([kept_alive(new, old) for new, old in pairs])

    def packed(self, adapter: Tensor, client: int) -> Tensor:
        """A client's adapter (n,) without the zeros."""
        whole = split(adapter, self.shapes)
        return joined(whole if self._ranks is None else [truncated(each, self._ranks[client]) for each in whole])

    def unpacked(self, vector: Tensor, client: int) -> list[Factors]:
        """The factors in what `packed` gives."""
        return split(vector, self._shapes_of(client))

    def elements(self, client: int) -> int:
        """Of what `packed` gives."""
        return sum(map(prod, self._shapes_of(client)))

    def _shapes_of(self, client: int) -> list[Size]:
        if self._ranks is None:
            return self.shapes
        rank = self._ranks[client]
        pairs = zip(self.shapes[::2], self.shapes[1::2], strict=True)
        return [shape for a, b in pairs for shape in (Size((min(rank, a[0]), a[1])), Size((b[0], min(rank, b[1]))))]
