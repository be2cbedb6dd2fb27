"""One logical client as its server knows it: the other ends of its links, its labels, the keys of its positions."""

from collections.abc import Mapping
from dataclasses import dataclass

from splitcom_dist.codec.labels import LabelCache
from splitcom_dist.codec.prefix import KeyBook
from splitcom_dist.comm.link import Edge
from splitcom_dist.roles.flows.ends import close_all
from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.state import State, Stateful, gathered, spread


@dataclass(frozen=True)
class ServedClient:
    """What a server keeps of one logical client: its ends of the client's links, by name."""

    number: int
    edge: Edge
    incoming: Mapping[str, Incoming]
    outgoing: Mapping[str, Outgoing]
    book: KeyBook | None  # its samples, and the keys of their positions; None where the run has no use for them
    labels: LabelCache | None  # target ids of its samples; None in the U-shape: they stay with the client

    def state(self) -> State:
        return gathered(self._memory)

    def load(self, state: State) -> None:
        spread(state, self._memory)

    @property
    def _memory(self) -> dict[str, Stateful]:
        kept = {"book": self.book, "labels": self.labels}
        return {
            **self.incoming,
            **self.outgoing,
            **{name: part for name, part in kept.items() if part is not None},
        }

    def close(self) -> None:
        """Give up the files of its references."""
        close_all(self.outgoing, self.incoming)

    def forget_received(self) -> None:
        """Start the first link afresh, and whatever else was kept by its keys."""
        if self.book is not None:
            self.book.clear()
            if "down_activation" in self.outgoing:
                self.outgoing["down_activation"].encoder.store.clear()
