"""Which policy moves the cuts of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.balance_time import BalanceTime
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.measured import Measured
from splitcom_dist.cuts.splitft import SplitFT
from splitcom_dist.cuts.work import Work
from splitcom_dist.layout import Layout
from splitcom_dist.state import Stateful


@dataclass(frozen=True)
class Move:
    """One client is cut elsewhere from the next step on."""

    client: int
    old: int
    new: int
    reason: str

    @property
    def blocks(self) -> range:
        """That change hands."""
        return range(min(self.old, self.new), max(self.old, self.new))


class Policy(Stateful, Protocol):
    def decide(self, cuts: Cuts, measured: Mapping[int, Measured]) -> dict[int, tuple[int, str]]:
        """By client its cut from now on and why, given what was measured of a round; those that stay may be left out.

        `measured` may lack clients that had no turn in it.
        """
        ...


def make_policy(config: Config, work: Work, layout: Layout) -> Policy:
    """The policy of a run whose cuts move."""
    if config.fed.cuts.policy == "splitft":
        return SplitFT(config.fed.cuts.gamma)
    return BalanceTime(config.fed.cuts.gain, work, layout)


def decide(policy: Policy, cuts: Cuts, measured: Mapping[int, Measured]) -> list[Move]:
    """The moves of a policy, by client, ascending, within the bounds of the cuts."""
    moves = []
    for client, (wanted, reason) in sorted(policy.decide(cuts, measured).items()):
        new = min(max(wanted, cuts.shallowest), cuts.deepest)
        if new != cuts.of(client):
            moves.append(Move(client, cuts.of(client), new, reason))
    return moves
