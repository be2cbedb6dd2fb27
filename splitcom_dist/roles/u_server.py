"""The server of the U-shape: the blocks between head and tail. It has no text, no labels, no embedding, no LM head.

Nothing here could take a label: packets of this shape have no section for them, and the one number that a client
tells beside its gradient is how many targets it sums over.
"""

import time
from dataclasses import dataclass

from splitcom_dist.codec.visit import Visit
from splitcom_dist.errors import WireError
from splitcom_dist.roles.body import Passing
from splitcom_dist.roles.pipeline import Place
from splitcom_dist.roles.reception import decoded, recalled, receive_activation
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.roles.turn import Turn


@dataclass(frozen=True)
class Passage:
    """A client's micro-batch on its way through the body."""

    client: ServedClient
    place: Place
    turn: Turn
    visit: Visit
    passing: Passing


class UServerRole(ServerRole):
    """Blocks behind the cuts, up to the clients' tails; a client's activation enters at its own cut."""

    def serve(self, wave: list[ServedClient], together: range, step: int) -> list[Turn]:
        """Forward for all micro-batches of every client of the wave, then backward: their tails compute meanwhile."""
        begun: list[Passage | Turn] = []
        turns: list[Turn] = []
        for number in together:
            for client, place in self.due(wave, together, number, step):
                with self.service.tolerating(self.rank_of(client.number)):
                    begun.append(self.forward(client, place, step))
        for passage in begun:
            if isinstance(passage, Turn):
                turns.append(passage)
                continue
            if not self.service.serves(self.rank_of(passage.client.number)):
                continue
            with self.service.tolerating(self.rank_of(passage.client.number)):
                turns.append(self.backward(passage, step))
        return turns

    def forward(self, client: ServedClient, place: Place, step: int) -> Passage | Turn:
        """Activation in, body output out. While heads rest the activation is the one that came last.

        The whole turn of a client that is absent.
        """
        started, waited, arriving = time.perf_counter(), client.edge.waited, client.edge.arriving
        peer_digest = None
        if self.opens(step):
            visit, rows = recalled(self.context, client, place, step)
            client.incoming["up_activation"].spare(step, visit)
        else:
            packet = receive_activation(self.context, client, place, step)
            if packet is None:
                return self.without(client, waited)
            visit, rows = packet.visit, decoded(client, packet)
            peer_digest = place.digest(packet.header.answer_digest)
        waited, arriving = client.edge.waited - waited, client.edge.arriving - arriving
        cut_layer = self.context.cuts.of(client.number)
        begun = time.perf_counter()
        passing = self.body.forward(rows, visit.lengths, self.context.head_trains(step), step, cut_layer)
        computing = time.perf_counter() - begun
        gradient = client.incoming["up_gradient"]
        gradient.expect(step, visit)
        client.outgoing["down_activation"].send(
            step,
            visit,
            passing.output,
            peer_digest=peer_digest,
            answer_digest=gradient.decoder.store.digest if place.first else 0,
        )
        seconds = time.perf_counter() - started - waited
        turn = Turn(client.number, tokens=len(rows), seconds=seconds, computing=computing)
        turn.waited, turn.arriving = waited, arriving
        return Passage(client, place, turn, visit, passing)

    def backward(self, passage: Passage, step: int) -> Turn:
        """Gradient of the client's summed loss in, gradient at the cut out; adapter gradients accumulate."""
        client, turn = passage.client, passage.turn
        started, waited, arriving = time.perf_counter(), client.edge.waited, client.edge.arriving
        up = client.incoming["up_gradient"]
        packet = up.receive(step, passage.visit)
        waited, arriving = client.edge.waited - waited, client.edge.arriving - arriving
        gradient = up.decode(packet)
        if gradient is None or not packet.header.targets:
            raise WireError(f"{client.edge.peer}, up_gradient, step {step}: targets: 0, a batch has at least one")
        begun = time.perf_counter()
        at_cut = passage.passing.backward(gradient)
        turn.computing += time.perf_counter() - begun
        with self.service.tolerating(self.rank_of(client.number)):  # the body's gradient is made, and counts
            if self.context.head_trains(step):
                told = passage.place.digest(packet.header.answer_digest)
                client.outgoing["down_gradient"].send(step, passage.visit, at_cut, peer_digest=told)
            else:
                client.outgoing["down_gradient"].spare(step, passage.visit)
        turn.targets = packet.header.targets
        turn.seconds += time.perf_counter() - started - waited
        turn.waited += waited
        turn.arriving += arriving
        return turn
