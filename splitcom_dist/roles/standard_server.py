"""The server of the standard shape: all deep blocks and the LM head; labels cross once a sample and are cached."""

import time

from torch import Tensor

from splitcom_dist.comm.portions import Portion
from splitcom_dist.errors import WireError
from splitcom_dist.models.loss import check_finite
from splitcom_dist.roles.flows import Packet
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.server import ServerRole, Turn


class StandardServerRole(ServerRole):
    """Blocks behind the cuts and the LM head; a client's activation enters at its own cut."""

    def serve(self, wave: list[ServedClient], step: int) -> list[Turn]:
        turns = []
        for client in wave:
            with self.service.tolerating(self.rank_of(client.number)):
                turns.append(self.serve_one(client, step))
        return turns

    def serve_one(self, client: ServedClient, step: int) -> Turn:
        """One client's batch: activation in, loss, gradient out. While heads rest neither comes nor goes."""
        started, waited, packet = time.perf_counter(), client.edge.waited, None
        if self.opens(step):
            visit, rows = self.recalled(client, step)
            assert client.labels is not None
            targets = client.labels.recall(visit.samples)
        else:
            packet = self.receive_activation(client, step)
            if packet is None:
                return self.without(client, waited)
            visit, targets = packet.visit, self.targets(client, packet)
            rows = self.decoded(client, packet)
        waited = client.edge.waited - waited
        batch, cut_layer = Portion(rows, visit.lengths, targets), self.context.cuts.of(client.number)
        begun = time.perf_counter()
        loss, gradient = self.body.forward_backward(batch, self.context.head_trains(step), step, cut_layer)
        computing = time.perf_counter() - begun
        count = sum(map(len, targets))
        self.context.ledger.learnt(loss, count)
        check_finite(loss, client.number, step, self.context.config.train.lr)
        with self.service.tolerating(self.rank_of(client.number)):  # the body's gradient is made, and counts
            if gradient is not None and packet is not None:
                client.outgoing["down_gradient"].send(step, visit, gradient, peer_digest=packet.header.answer_digest)
            elif packet is not None:
                client.outgoing["down_gradient"].acknowledge(step, visit)
            else:
                client.incoming["up_activation"].spare(step, visit)
                client.outgoing["down_gradient"].spare(step, visit)
        return Turn(client.number, loss, len(rows), count, time.perf_counter() - started - waited, computing, waited)

    def targets(self, client: ServedClient, packet: Packet) -> list[Tensor]:
        """Target ids a sample, from the packet or from an earlier visit."""
        assert client.labels is not None
        try:
            return client.labels.unpack(packet.sections["labels"], packet.visit.samples, packet.visit.lengths)
        except WireError as error:
            raise packet.expected.error("body", str(error)) from None
