"""How a server comes by a micro-batch: from the packet that brings it, or while heads rest from what it remembers."""

import torch
from torch import Tensor

from splitcom_dist.codec.visit import Visit
from splitcom_dist.data.batching import in_micro_batches
from splitcom_dist.errors import WireError
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows.incoming import Incoming, Packet
from splitcom_dist.roles.pipeline import Place
from splitcom_dist.roles.served_client import ServedClient


def receive_activation(context: Context, client: ServedClient, place: Place, step: int) -> Packet | None:
    """The packet that brings a micro-batch; if the first was made over other references, asks once for a resync.

    None if it says that the client has no batch for this step.
    """
    up = client.incoming["up_activation"]
    packet = up.receive(step, book=client.book)
    if packet.tells_absence:
        up.book(packet)
        return None
    _expect_more(up, place, step)
    if place.first and not up.fits(packet, client.book):
        up.refuse(packet)
        for _ in range(place.behind):  # made over the same references
            up.book(up.receive(step, book=client.book))
        client.edge.finish()  # encoders must be idle
        client.forget_received()
        up.expect(step)
        client.outgoing[context.links[1]].ask_for_resync(step)
        packet = up.receive(step, book=client.book)
        _expect_more(up, place, step)
    if not up.fits(packet, client.book):
        raise packet.expected.error("manifest", "does not fit even after a resync")
    return packet


def decoded(client: ServedClient, packet: Packet) -> Tensor:
    """The rows (T, d) of the packet that brings a micro-batch."""
    rows = client.incoming["up_activation"].decode(packet)
    assert rows is not None
    return rows


def recalled(context: Context, client: ServedClient, place: Place, step: int) -> tuple[Visit, Tensor]:
    """A resting client's micro-batch, which the schedule names, and its rows (T, d) from our references."""
    assert client.book is not None
    samples, schedule, train = client.book.samples, context.schedule, context.config.train
    if len(samples) != schedule.shard_sizes[client.number]:
        raise WireError(
            f"{client.edge.peer}, step {step}: it rests, but of its {schedule.shard_sizes[client.number]} samples "
            f"{len(samples)} have come; let heads train for a whole epoch first"
        )
    batch = schedule.batch(samples, client.number, step, train.seed)
    chosen = list(in_micro_batches(batch, train.micro_batches)[place.number])
    paths = [client.book.path(sample) for sample in chosen]
    visit = Visit(chosen, torch.tensor([len(path) for path in paths]), paths)
    return visit, client.incoming["up_activation"].recall(visit)


def _expect_more(up: Incoming, place: Place, step: int) -> None:
    """The first of those under way together has come: the others follow."""
    for _ in range(place.behind if place.first else 0):
        up.expect(step)
