"""A client rank: its logical clients take turns with one frozen head, each with its own adapter."""

import json
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.codec.wire import RESYNC, Header, pack_manifest
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.reduce import weighted_mean
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.errors import WireError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.telemetry.records import record_event, record_round, record_similarity, record_training


class ClientRole:
    """Blocks 0..cut_layer-1 and the text of its logical clients. `edge` leads to its server."""

    def __init__(self, context: Context, model: PreTrainedModel, edge: Edge, clients: Sequence[LogicalClient]) -> None:
        self.context = context
        self.model = model
        self.edge = edge
        self.clients = {client.id: client for client in clients}

    def run(self) -> None:
        schedule, world = self.context.schedule, self.context.world
        self.take_verdict(-1)  # on the model before training
        for step in range(schedule.total_steps):
            for client in schedule.turns(step, world.rank):
                self.exchange(self.clients[client], step)
            if schedule.averages_after(step):
                self.average(step)
            if schedule.evaluates_after(step):
                self.take_verdict(step)
            self.context.log.flush()
            world.beat()

    def exchange(self, client: LogicalClient, step: int) -> None:
        """One batch of one logical client: activation up, gradient down, optimizer step."""
        started = time.perf_counter()
        seed = self.context.config.train.seed
        batch = collate(self.context.schedule.batch(client.samples, client.id, step, seed))
        activation = self.forward(client, batch)
        self.send_activation(client, batch, activation, step)
        sent = time.perf_counter()
        gradient = self.receive_gradient(client, batch, activation, step)
        waited = time.perf_counter() - sent
        lr = client.optimizer.lr
        if gradient is not None:
            assert activation is not None
            activation.backward(gradient)
            client.optimizer.step()
        client.weight += sum(map(len, batch.targets))
        self.context.ledger.trained(int(batch.lengths.sum()))
        record_training(
            self.context.log,
            step,
            self.context.schedule.epoch_of(step),
            client.id,
            loss=math.nan,  # the server's to know
            tokens=int(batch.lengths.sum()),
            targets=sum(map(len, batch.targets)),
            lr=lr,
            seconds=time.perf_counter() - started - waited,
            wait=waited,
        )

    def forward(self, client: LogicalClient, batch: Batch) -> Tensor | None:
        """The head's activation at real positions (T, d); None if nothing of it would be sent."""
        if not client.encoder.needs_values(batch.samples):
            return None
        client.enter()
        with torch.set_grad_enabled(self.context.clients_train):
            return to_ragged(forward_blocks(self.model, input_ids=batch.input_ids), batch.lengths)

    def send_activation(self, client: LogicalClient, batch: Batch, activation: Tensor | None, step: int) -> None:
        """Encode and send one batch; its labels go along if the server has not had them."""
        digest = client.encoder.store.digest  # what the server's store must be before this packet
        started = time.perf_counter()
        values = None if activation is None else activation.detach()
        frames = client.encoder.encode(values, batch.samples, batch.lengths)
        labels = client.labels.pack(batch.samples, batch.targets)
        encoded = time.perf_counter()
        header = Header(
            link=LINK_CODES["up_activation"],
            step=step,
            client=client.id,
            samples=len(batch.samples),
            tokens=frames.intra + frames.skipped,
            n_i=frames.intra,
            n_s=frames.skipped,
            store_digest=digest,
        )
        sections = {
            "manifest": pack_manifest(batch.samples, batch.lengths),
            "labels": labels,
            **frames.sections,
        }
        wire = self.edge.send(header, sections)
        sent = time.perf_counter()
        self.context.ledger.sent(header, wire, len(labels), encoded - started, sent - encoded)
        epoch = self.context.schedule.epoch_of(step)
        record_similarity(self.context.log, epoch, header, batch.samples, frames)

    def receive_gradient(
        self, client: LogicalClient, batch: Batch, activation: Tensor | None, step: int
    ) -> Tensor | None:
        """The gradient of this client's mean loss at the cut (T, d); None where clients do not train."""
        header, gradient = self.receive_answer(client, batch, step)
        if header.flags & RESYNC:
            reason = f"the server's store of client {client.id} differed; sending I frames again"
            record_event(self.context.log, step, "resync", reason)
            client.forget_sent()
            activation = self.forward(client, batch) if activation is None else activation
            self.send_activation(client, batch, activation, step)
            header, gradient = self.receive_answer(client, batch, step)
            if header.flags & RESYNC:
                raise WireError(f"{self.edge.peer}, step {step}: store_digest: differs even after a resync")
        return gradient

    def receive_answer(self, client: LogicalClient, batch: Batch, step: int) -> tuple[Header, Tensor | None]:
        """The server's answer to one activation: a gradient, or the wish for a resync."""
        tokens = int(batch.lengths.sum())
        expected = self.context.expected_gradient(self.edge.peer, client.id, step, len(batch.samples), tokens)
        header, sections, wire = self.edge.receive(expected)
        started = time.perf_counter()
        gradient = None
        if self.context.clients_train and not header.flags & RESYNC:
            coded = sections["modes"], sections["scales"], sections["symbols"]
            gradient = client.decoder.decode(*coded, batch.samples, batch.lengths)
        self.context.ledger.received(header, wire, 0, time.perf_counter() - started)
        return header, gradient

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
        """Wait for the aggregator's evaluation; it brings the thresholds of the next epoch."""
        world = self.context.world
        verdict = json.loads(world.wait_for(f"verdict/{step}", [world.layout.aggregator_rank], "an evaluation"))
        for client in self.clients.values():
            client.encoder.theta = verdict["theta"].get("up_activation", client.encoder.theta)
