"""One rank's matches of the tournament, and what the ranks' results say together."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from splitcom_dist.comm.channels import Channel
from splitcom_dist.comm.failures import culprits
from splitcom_dist.comm.speed import Pair, measure
from splitcom_dist.doctor.tournament import rounds
from splitcom_dist.errors import UserError
from splitcom_dist.place import Place


@dataclass(frozen=True)
class Matches:
    """What one rank measured, and why it stopped, if it did."""

    pairs: list[Pair] = field(default_factory=list)  # those in which it is the lower rank
    lost: int | None = None  # the peer that left or was silent
    failure: str = ""  # why this rank could not open its connections, with the mend

    def to_values(self) -> dict[str, Any]:
        return asdict(self)


def from_values(values: Mapping[str, Any]) -> Matches:
    return Matches([Pair(**pair) for pair in values["pairs"]], values["lost"], values["failure"])


def play(place: Place, open_channel: Callable[[], Channel], after_each: Callable[[], None]) -> Matches:
    """Measure with every other rank in turn; a peer that is lost ends it for this rank, and soon for its others."""
    pairs: list[Pair] = []
    try:
        channel = open_channel()
    except UserError as error:
        return Matches(failure=str(error))
    except (RuntimeError, ValueError) as error:
        return Matches(failure=f"{str(error).splitlines()[0]}: see that the hosts can reach each other")
    for match in (match for matches in rounds(place.world_size) for match in matches if place.rank in match):
        peer = match[0] + match[1] - place.rank
        try:
            pair = measure(channel, place.rank, peer)
        except RuntimeError:
            channel.close()  # who waits for this rank learns it now, not after a timeout of its own
            return Matches(pairs, lost=peer)
        pairs += [pair] if pair else []
        after_each()
    return Matches(pairs)


def problems(results: Mapping[int, Matches], world_size: int, transport: str) -> list[str]:
    """A line for every rank that others lost, every pair that did not hear each other, every other failure."""
    waiting = {rank: [result.lost] for rank, result in results.items() if result.lost is not None}
    failures = {result.failure for result in results.values() if result.failure}
    lines = [f"{transport}: {failure}" for failure in sorted(failures)]
    absent = set(range(world_size)) - set(results)
    stopped = {rank for rank, result in results.items() if result.failure}
    blamed = absent.union(*(culprits(rank, waiting) for rank in waiting)) - stopped
    for rank in sorted(blamed):
        lines.append(f"rank {rank} left or fell silent while others measured with it: see its host")
    if waiting and not blamed and not failures:  # in a ring nobody is to blame: a connection between two is
        cut = {(min(rank, lost), max(rank, lost)) for rank, (lost,) in waiting.items() if waiting.get(lost) == [rank]}
        for first, second in sorted(cut or {(rank, lost) for rank, (lost,) in waiting.items()}):
            lines.append(
                f"ranks {first} and {second} do not hear each other over {transport}: open the firewall between them, "
                "or export GLOO_SOCKET_IFNAME, the interface of the network that joins them"
            )
    return lines
