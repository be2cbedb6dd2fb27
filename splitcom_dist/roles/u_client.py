"""A client rank of the U-shape: it also holds the last blocks and the LM head, and its labels never leave it."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.attendance import Mode
from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.comm.link import Edge
from splitcom_dist.data.batching import Batch
from splitcom_dist.models.loss import check_finite, token_loss
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import Blocks
from splitcom_dist.roles.flows.incoming import Packet
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.mean_share import MeanShare
from splitcom_dist.roles.pipeline import MicroBatch
from splitcom_dist.roles.roster import Roster


class UClientRole(ClientRole):
    """Head, tail and text. Where the model ties its LM head, it is one parameter with the head's embedding."""

    def __init__(
        self,
        context: Context,
        head: PreTrainedModel,
        tail: PreTrainedModel,
        edge: Edge,
        clients: Roster[LogicalClient],
        share: MeanShare,
        blocks: Blocks,
    ) -> None:
        super().__init__(context, head, edge, clients, share, blocks)
        self.tail = tail

    @property
    def holds(self) -> nn.Module:
        return nn.ModuleList([self.head, self.tail])

    def trains(self, step: int) -> bool:
        """The tail does at every step, whatever the head does."""
        return True

    def turn(self, client: LogicalClient, together: Sequence[MicroBatch], step: int) -> float:
        """Activations up, body outputs down, tail and loss here, tail gradients up, head gradients down.

        While the head rests the first and the last of these do not cross. Returns the summed loss.
        """
        loss, down = 0.0, client.incoming["down_activation"]
        if self.context.schedule.mode(step) is Mode.REST:
            for part in together:
                part.visit = client.visit(part.samples)
                client.outgoing["up_activation"].spare(step, part.visit)
                down.expect(step, part.visit)
        else:
            self.open(client, together, "down_activation", step)
        for part in together:
            if self.context.schedule.mode(step) is Mode.REST:
                packet = down.receive(step, part.visit)
            else:
                packet = self.answer(client, part, together, "down_activation", step)
            loss += self.turn_round(client, part, packet, step)
        for part in together:
            self.close(client, part, step)
        return loss

    def turn_round(self, client: LogicalClient, part: MicroBatch, packet: Packet, step: int) -> float:
        """Body output in, gradient of the loss out."""
        output = client.incoming["down_activation"].decode(packet)
        assert output is not None
        with self.pace.computing(client.id):
            loss, gradient = self.forward_backward(output, part.batch)
        self.context.ledger.learnt(loss, part.batch.target_count)
        check_finite(loss, client.id, step, self.context.config.train.lr)
        head_gradient = client.incoming["down_gradient"]
        client.outgoing["up_gradient"].send(
            step,
            packet.visit,
            gradient,
            peer_digest=part.place.digest(packet.header.answer_digest),
            answer_digest=head_gradient.decoder.store.digest if part.place.first else 0,
            targets=part.batch.target_count,
        )
        if self.context.head_trains(step):
            head_gradient.expect(step, packet.visit)
        return loss

    def close(self, client: LogicalClient, part: MicroBatch, step: int) -> None:
        """Head gradient in, where heads train."""
        assert part.visit is not None
        down = client.incoming["down_gradient"]
        if self.context.head_trains(step):
            self.backward(client, part, down.decode(down.receive(step, part.visit)))
        else:
            down.spare(step, part.visit)

    def forward_backward(self, output: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Summed loss over the targets, and its gradient at the body's output (T, d); tail gradients accumulate."""
        rows = output.requires_grad_()
        hidden = to_ragged(forward_blocks(self.tail, activation=to_padded(rows, batch.lengths)), batch.lengths)
        loss = token_loss(self.tail, hidden, batch.lengths, batch.targets)
        loss.backward()
        assert rows.grad is not None
        return float(loss.detach()), rows.grad
