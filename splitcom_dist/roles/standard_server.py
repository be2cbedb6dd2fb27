"""The server of the standard shape: all deep blocks and the LM head; labels cross once a sample and are cached."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from splitcom_dist.codec.visit import Visit
from splitcom_dist.comm.portions import Portion
from splitcom_dist.errors import WireError
from splitcom_dist.models.loss import check_finite
from splitcom_dist.roles.body import WholeBody
from splitcom_dist.roles.flows.incoming import Packet
from splitcom_dist.roles.pipeline import Place
from splitcom_dist.roles.reception import decoded, recalled, receive_activation
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.roles.turn import Turn


@dataclass(frozen=True)
class Arrival:
    """One client's micro-batch that is to be served: what came, or while heads rest what is remembered."""

    client: ServedClient
    place: Place
    packet: Packet | None  # None while heads rest
    visit: Visit
    batch: Portion
    waited: float  # for the packet, seconds
    arriving: float  # of these, what the link took
    seconds: float  # to take it


class StandardServerRole(ServerRole):
    """Blocks behind the cuts and the LM head; a client's activation enters at its own cut."""

    def serve(self, wave: list[ServedClient], together: range, step: int) -> list[Turn]:
        """The first micro-batch of every client of the wave, then the second: while one computes, others are served."""
        turns = []
        for number in together:
            due = self.due(wave, together, number, step)
            match self.context.config.roles.server_batching:
                case "merged":
                    turns += self.serve_together(due, step)
                case "arrival":
                    turns += self.serve_as_they_come(list(due), step)
                case _:
                    turns += self.serve_in_turn(due, step)
        return turns

    def serve_in_turn(self, due: Iterable[tuple[ServedClient, Place]], step: int) -> list[Turn]:
        """One micro-batch of each client, one after the other."""
        turns = []
        for client, place in due:
            with self.service.tolerating(self.rank_of(client.number)):
                turns.append(self.serve_one(client, place, step))
        return turns

    def serve_as_they_come(self, due: Sequence[tuple[ServedClient, Place]], step: int) -> list[Turn]:
        """One micro-batch of each client: those that have come in one pass of the body, then those since."""
        assert self.arrivals is not None
        if self.opens(step):
            return self.serve_together(due, step)
        turns: list[Turn] = []
        while due:
            started = time.perf_counter()
            here = self.arrivals.wait([client.edge for client, _ in due])
            waited = time.perf_counter() - started
            turns += self.serve_together([each for each in due if each[0].edge in here], step, waited)
            due = [each for each in due if each[0].edge not in here]
        return turns

    def serve_one(self, client: ServedClient, place: Place, step: int) -> Turn:
        """One micro-batch: activation in, loss, gradient out."""
        arrival = self.take(client, place, step)
        if isinstance(arrival, Turn):
            return arrival
        begun, cut_layer = time.perf_counter(), self.context.cuts.of(client.number)
        learnt = self.body.forward_backward(arrival.batch, self.context.head_trains(step), step, cut_layer)
        return self.answer(arrival, *learnt, step, time.perf_counter() - begun)

    def serve_together(self, due: Iterable[tuple[ServedClient, Place]], step: int, waited: float = 0.0) -> list[Turn]:
        """One micro-batch of each client in one pass of the body, once all have come; the first of them has been
        waited for so many seconds already."""
        assert isinstance(self.body, WholeBody)
        turns: list[Turn] = []
        arrivals: list[Arrival] = []
        for client, place in due:
            with self.service.tolerating(self.rank_of(client.number)):
                arrival = self.take(client, place, step)
                arrival, waited = replace(arrival, waited=arrival.waited + waited), 0.0
                (arrivals if isinstance(arrival, Arrival) else turns).append(arrival)  # type: ignore[arg-type]
        if not arrivals:
            return turns
        begun, cuts = time.perf_counter(), [self.context.cuts.of(arrival.client.number) for arrival in arrivals]
        batches = [arrival.batch for arrival in arrivals]
        learnt = self.body.forward_backward_merged(batches, self.context.head_trains(step), cuts)
        computing = (time.perf_counter() - begun) / sum(len(batch.rows) for batch in batches)  # a position
        for arrival, (loss, gradient) in zip(arrivals, learnt, strict=True):
            turns.append(self.answer(arrival, loss, gradient, step, computing * len(arrival.batch.rows)))
        return turns

    def take(self, client: ServedClient, place: Place, step: int) -> Arrival | Turn:
        """A client's micro-batch, or the whole turn of one that is absent. While heads rest nothing comes."""
        started, waited, arriving = time.perf_counter(), client.edge.waited, client.edge.arriving
        packet = None
        if self.opens(step):
            visit, rows = recalled(self.context, client, place, step)
            assert client.labels is not None
            targets = client.labels.recall(visit.samples)
        else:
            packet = receive_activation(self.context, client, place, step)
            if packet is None:
                return self.without(client, waited)
            visit, targets = packet.visit, self.targets(client, packet)
            rows = decoded(client, packet)
        waited, arriving = client.edge.waited - waited, client.edge.arriving - arriving
        seconds = time.perf_counter() - started - waited
        return Arrival(client, place, packet, visit, Portion(rows, visit.lengths, targets), waited, arriving, seconds)

    def answer(self, arrival: Arrival, loss: float, gradient: Tensor | None, step: int, computing: float) -> Turn:
        """The gradient out, after so many seconds of computing. While heads rest nothing goes."""
        started, client, packet, visit = time.perf_counter(), arrival.client, arrival.packet, arrival.visit
        count = sum(map(len, arrival.batch.targets))
        self.context.ledger.learnt(loss, count)
        check_finite(loss, client.number, step, self.context.config.train.lr)
        with self.service.tolerating(self.rank_of(client.number)):  # the body's gradient is made, and counts
            if gradient is not None and packet is not None:
                told = arrival.place.digest(packet.header.answer_digest)
                client.outgoing["down_gradient"].send(step, visit, gradient, peer_digest=told)
            elif packet is not None:
                client.outgoing["down_gradient"].acknowledge(step, visit)
            else:
                client.incoming["up_activation"].spare(step, visit)
                client.outgoing["down_gradient"].spare(step, visit)
        seconds = arrival.seconds + computing + time.perf_counter() - started
        times = seconds, computing, arrival.waited, arrival.arriving
        return Turn(client.number, loss, len(arrival.batch.rows), count, *times)

    def targets(self, client: ServedClient, packet: Packet) -> list[Tensor]:
        """Target ids a sample, from the packet or from an earlier visit."""
        assert client.labels is not None
        try:
            return client.labels.unpack(packet.sections["labels"], packet.visit.samples, packet.visit.lengths)
        except WireError as error:
            raise packet.expected.error("body", str(error)) from None
