"""All ends of one client's links that a rank has."""

from collections.abc import Mapping

from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing


def close_all(outgoing: Mapping[str, Outgoing], incoming: Mapping[str, Incoming]) -> None:
    """Give up the files of references at one end of a client's links."""
    ends: list[Outgoing | Incoming] = [*outgoing.values(), *incoming.values()]
    for end in ends:
        end.close()
