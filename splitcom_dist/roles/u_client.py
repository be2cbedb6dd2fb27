"""A client rank of the U-shape: it also holds the last blocks and the LM head, and its labels never leave it."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.attendance import Mode
from splitcom_dist.codec.ragged import to_padded, to_ragged
from splitcom_dist.comm.link import Edge
from splitcom_dist.data.batching import Batch
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.loss import check_finite, token_loss
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import Blocks
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.mean_share import MeanShare
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

    def turn(self, client: LogicalClient, samples: Sequence[Sample], batch: Batch, step: int) -> float:
        """Activation up, body output down, tail and loss here, tail gradient up, head gradient down.

        While the head rests the first and the last of these do not cross. Returns the summed loss.
        """
        activation = None
        if self.context.schedule.mode(step) is Mode.REST:
            packet = client.incoming["down_activation"].receive(step, client.visit(samples))
            client.outgoing["up_activation"].spare(step, packet.visit)
        else:
            activation, packet = self.open(client, samples, batch, "down_activation", step)
        output = client.incoming["down_activation"].decode(packet)
        assert output is not None
        with self.pace.computing(client.id):
            loss, gradient = self.forward_backward(output, batch)
        self.context.ledger.learnt(loss, sum(map(len, batch.targets)))
        check_finite(loss, client.id, step, self.context.config.train.lr)
        client.outgoing["up_gradient"].send(
            step,
            packet.visit,
            gradient,
            peer_digest=packet.header.answer_digest,
            answer_digest=client.incoming["down_gradient"].decoder.store.digest,
            targets=sum(map(len, batch.targets)),
        )
        if self.context.head_trains(step):
            last = client.incoming["down_gradient"]
            head_gradient = last.decode(last.receive(step, packet.visit))
            assert activation is not None and head_gradient is not None
            with self.pace.computing(client.id):
                activation.backward(head_gradient)
        else:
            client.incoming["down_gradient"].spare(step, packet.visit)
        return loss

    def forward_backward(self, output: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Summed loss over the targets, and its gradient at the body's output (T, d); tail gradients accumulate."""
        rows = output.requires_grad_()
        hidden = to_ragged(forward_blocks(self.tail, activation=to_padded(rows, batch.lengths)), batch.lengths)
        loss = token_loss(self.tail, hidden, batch.lengths, batch.targets)
        loss.backward()
        assert rows.grad is not None
        return float(loss.detach()), rows.grad
