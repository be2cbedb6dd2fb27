"""What a server remembers of one client's batch in one step, or of a part of it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Turn:
    """The summed loss (NaN where the client computes it), positions, targets.

    Without targets there was none: the client was absent.
    """

    client: int
    loss: float = math.nan
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0  # computing, encoding and sending
    computing: float = 0.0  # of these
    waited: float = 0.0
    arriving: float = 0.0  # of these, what the link took

    def __add__(self, other: "Turn") -> "Turn":
        """Of two parts of one batch."""
        return Turn(
            self.client,
            self.loss + other.loss,
            self.tokens + other.tokens,
            self.targets + other.targets,
            self.seconds + other.seconds,
            self.computing + other.computing,
            self.waited + other.waited,
            self.arriving + other.arriving,
        )


def whole_turns(parts: Iterable[Turn]) -> list[Turn]:
    """One turn a client, of all parts of its batch."""
    turns: dict[int, Turn] = {}
    for part in parts:
        turns[part.client] = turns[part.client] + part if part.client in turns else part
    return list(turns.values())
