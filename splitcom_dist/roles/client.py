"""A client rank: its logical clients take turns with the same frozen blocks, each with its own adapter."""

import math
import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.codec.wire import Visit
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.reduce import weighted_mean
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.errors import WireError
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows import Outgoing, Packet
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.verdicts import await_verdict, report
from splitcom_dist.telemetry.records import record_event, record_round, record_training


class ClientRole:
    """Blocks 0..cut_layer-1 and the text of its logical clients. `edge` leads to its server."""

    def __init__(self, context: Context, head: PreTrainedModel, edge: Edge, clients: Sequence[LogicalClient]) -> None:
        self.context = context
        self.head = head
        self.edge = edge
        self.clients = {client.id: client for client in clients}

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.head)

    def run(self) -> None:
        schedule, world = self.context.schedule, self.context.world
        self.take_verdict(-1)  # on the model before training
        for step in range(schedule.total_steps):
            for client in schedule.turns(step, world.rank):
                self.train(self.clients[client], step)
            if schedule.averages_after(step):
                self.average(step)
            if schedule.decides_after(step):
                report(self.context, step, next(iter(self.clients.values())).optimizer.lr, self.outgoing())
                self.take_verdict(step)
            self.context.log.flush()
            world.beat()

    def train(self, client: LogicalClient, step: int) -> None:
        """One batch of one logical client: head forward, exchange with the server, head backward, optimizer step."""
        started, waited = time.perf_counter(), self.edge.waited
        batch = collate(self.context.schedule.batch(client.samples, client.id, step, self.context.config.train.seed))
        targets = sum(map(len, batch.targets))
        lr = client.optimizer.lr
        client.enter()
        activation = self.forward_head(client, batch)
        loss, gradient = self.exchange(client, batch, activation, step)
        if gradient is not None:
            assert activation is not None
            activation.backward(gradient)
        if self.context.schedule.clients_train:
            client.step(targets)
        client.weight += targets
        waited = self.edge.waited - waited
        tokens = int(batch.lengths.sum())
        self.context.ledger.trained(tokens)
        record_training(
            self.context.log,
            step,
            self.context.schedule.epoch_of(step),
            client.id,
            loss=loss / targets,
            tokens=tokens,
            targets=targets,
            lr=lr,
            seconds=time.perf_counter() - started - waited,
            wait=waited,
        )

    def exchange(
        self, client: LogicalClient, batch: Batch, activation: Tensor | None, step: int
    ) -> tuple[float, Tensor | None]:
        """What lies beyond the cut: summed loss (NaN: the server's to know), and its gradient at the cut (T, d).

        The gradient is None where the head does not train.
        """
        packet = self.ask(client, batch, activation, "down_gradient", step)
        return math.nan, client.incoming["down_gradient"].decode(packet)

    def forward_head(self, client: LogicalClient, batch: Batch) -> Tensor | None:
        """The head's activation at real positions (T, d); None if nothing of it would be sent."""
        if not client.outgoing["up_activation"].encoder.needs_values(batch.samples):
            return None
        with torch.set_grad_enabled(self.context.head_trains):
            return to_ragged(forward_blocks(self.head, input_ids=batch.input_ids), batch.lengths)

    def ask(self, client: LogicalClient, batch: Batch, activation: Tensor | None, link: str, step: int) -> Packet:
        """Send the activation and wait for the answer on `link`; if the server's references differ, send it anew."""
        visit = Visit(batch.samples, batch.lengths)
        self.send_activation(client, batch, activation, link, step)
        packet = client.incoming[link].receive(step, visit)
        if packet.asks_for_resync:
            client.incoming[link].decode(packet)
            reason = f"the server's store of client {client.id} differed; sending I frames again"
            record_event(self.context.log, step, "resync", reason)
            client.forget_sent()
            activation = self.forward_head(client, batch) if activation is None else activation
            self.send_activation(client, batch, activation, link, step)
            packet = client.incoming[link].receive(step, visit)
            if packet.asks_for_resync:
                raise WireError(f"{self.edge.peer}, step {step}: store_digest: differs even after a resync")
        return packet

    def send_activation(
        self, client: LogicalClient, batch: Batch, activation: Tensor | None, answer: str, step: int
    ) -> None:
        """Encode and send one batch; in the standard shape with the labels that the server has not had."""
        client.outgoing["up_activation"].send(
            step,
            Visit(batch.samples, batch.lengths),
            activation,
            answer_digest=client.incoming[answer].decoder.store.digest,
            labels=None if client.labels is None else client.labels.pack(batch.samples, batch.targets),
        )

    def average(self, step: int) -> None:
        """Replace every client's adapter by the mean over all clients, weighted by target tokens."""
        world, clients = self.context.world, self.clients.values()
        world.announce(f"round/{step}")  # the aggregator waits for this, not inside the reduction
        started = time.perf_counter()
        weighted = torch.stack([client.weight * flatten(client.adapter) for client in clients]).sum(dim=0)
        weight = sum(client.weight for client in clients)
        mean, total, size = weighted_mean(weighted, weight, world.averaging_group)
        for client in clients:
            unflatten_into(mean, client.adapter)
            client.weight = 0
        self.context.ledger.adapters(size)
        epoch = self.context.schedule.epoch_of(step)
        seconds = time.perf_counter() - started
        record_round(self.context.log, step, epoch, len(clients), total, size, seconds)

    def take_verdict(self, step: int) -> None:
        """Wait for the aggregator's decision; it brings the thresholds from now on."""
        await_verdict(self.context, step, self.outgoing())

    def outgoing(self) -> list[Outgoing]:
        """The sending ends of all its clients."""
        return [flow for client in self.clients.values() for flow in client.outgoing.values()]
