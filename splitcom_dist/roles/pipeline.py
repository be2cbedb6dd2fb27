"""Which micro-batches of a batch are under way together: one after another, or overlapped all of them.

Under way together all go up before the answer to the first is taken, so a client computes the next forward while the
server has the last one. Either way models and codecs see them in the same order, and so gradients, references and
packets are the same to the bit; but for the digest by which the two ends of a link compare what the next packet will
meet: with packets under way that is not known, so it is told by the first of those alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from splitcom_dist.codec.visit import Visit
from splitcom_dist.data.batching import Batch
from splitcom_dist.data.tokens import Sample


@dataclass(frozen=True)
class Place:
    """Of a micro-batch among those of its batch, `number` from 0."""

    number: int
    first: bool  # none of its batch is under way before it
    behind: int  # so many follow it before its answer is taken

    def digest(self, told: int) -> int | None:
        """What the other end has told of a store, if it could know."""
        return told if self.first else None


def groups(count: int, overlaps: bool) -> list[range]:
    """The numbers of so many micro-batches, those that are under way together in one range."""
    return [range(count)] if overlaps else [range(number, number + 1) for number in range(count)]


def place_in(together: range, number: int, count: int) -> Place:
    """Of one of `count` micro-batches; the group is the longest of any client, others have fewer."""
    return Place(number, number == together.start, min(together.stop, count) - number - 1)


@dataclass
class MicroBatch:
    """Samples of a client's batch on their way through the cut and back."""

    samples: Sequence[Sample]
    batch: Batch
    place: Place
    visit: Visit | None = None  # once it is told
    activation: Tensor | None = None  # of the head (T, d), once it is computed
