"""What ranks have measured of each logical client in a round: the ground on which its cut is moved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass
class Measured:
    """Of one client, at one end or at both together; seconds are sums over its turns."""

    turns: int = 0
    computing: float = 0.0  # by the client, with its blocks: changes with the cut
    sending: float = 0.0  # what else a turn takes of the client's time, encoding, and of its link's: does not
    serving: float = 0.0  # by the server, computing with the body
    answering: float = 0.0  # what else the server does for it
    loss: float = 0.0  # summed over targets, where this end computes it
    targets: int = 0

    def add(self, other: "Measured") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Measures:
    """One rank's measures by logical client, since they were last taken."""

    def __init__(self) -> None:
        self._of: dict[int, Measured] = {}

    def add(self, client: int, measured: Measured, loss: float = math.nan, targets: int = 0) -> None:
        """A turn. A loss that is NaN, and its targets, are the other end's to tell."""
        if not math.isnan(loss):
            measured.loss, measured.targets = loss, targets
        self._of.setdefault(client, Measured()).add(measured)

    def take(self) -> dict[int, list[str]]:
        """To be told to the aggregator, in texts whose length does not depend on what a clock says; begins anew."""
        taken = {client: [f"{value:.6e}" for value in asdict(each).values()] for client, each in self._of.items()}
        self._of.clear()
        return taken


def joined(told: Iterable[Mapping[str, Sequence[str]]]) -> dict[int, Measured]:
    """What client ranks and servers told, by client; those of whom both ends know. JSON has made keys strings."""
    sums: dict[int, Measured] = {}
    for each in told:
        for client, values in each.items():
            turns, computing, sending, serving, answering, loss, targets = map(float, values)
            measured = Measured(int(turns), computing, sending, serving, answering, loss, int(targets))
            sums.setdefault(int(client), Measured()).add(measured)
    return {client: measured for client, measured in sums.items() if measured.turns and measured.targets}
