"""A client rank: its logical clients take turns with the same frozen blocks, each with its own adapter."""

import math
import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.attendance import Mode
from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.codec.visit import Visit
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.reduce import make_averaging
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import WireError
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows import Outgoing, Packet
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.verdicts import await_verdict, report
from splitcom_dist.state import State, Stateful, gathered, spread
from splitcom_dist.telemetry.records import record_event, record_round, record_training


class ClientRole:
    """Blocks 0..cut_layer-1 and the text of its logical clients. `edge` leads to its server."""

    def __init__(self, context: Context, head: PreTrainedModel, edge: Edge, clients: Sequence[LogicalClient]) -> None:
        self.context = context
        self.head = head
        self.edge = edge
        self.clients = {client.id: client for client in clients}
        self.averaging = make_averaging(context.config.fed.adapter_quantizer, flatten(clients[0].adapter))

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.head)

    def run(self) -> None:
        schedule, world = self.context.schedule, self.context.world
        if not self.context.course.resumes:
            self.take_verdict(-1)  # on the model before training
        for step in self.context.course.steps(self):
            for client in schedule.turns(step, world.rank):
                self.train(self.clients[client], step)
            if schedule.averages_after(step):
                self.average(step)
            if schedule.decides_after(step):
                report(self.context, step, next(iter(self.clients.values())).optimizer.lr, self.outgoing())
                self.take_verdict(step)

    def state(self) -> State:
        return gathered(self._memory)

    def load(self, state: State) -> None:
        spread(state, self._memory)

    @property
    def _memory(self) -> dict[str, Stateful]:
        return {"averaging": self.averaging, **{f"client_{number}": client for number, client in self.clients.items()}}

    def train(self, client: LogicalClient, step: int) -> None:
        """One batch of one logical client: head forward, exchange with the server, head backward, optimizer step."""
        started, waited = time.perf_counter(), self.edge.waited
        samples = self.context.schedule.batch(client.samples, client.id, step, self.context.config.train.seed)
        batch = collate(samples)
        targets = sum(map(len, batch.targets))
        lr = client.optimizer.lr
        client.enter()
        loss = self.turn(client, samples, batch, step)
        if self.trains(step):
            client.step(targets)
            client.weight += targets
        else:
            client.rest()
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

    def trains(self, step: int) -> bool:
        """Whether a client steps its adapters after this batch."""
        return self.context.head_trains(step)

    def turn(self, client: LogicalClient, samples: Sequence[Sample], batch: Batch, step: int) -> float:
        """A batch through the cut and back; adapter gradients accumulate. Returns the summed loss (NaN: the
        server's to know)."""
        if self.context.schedule.mode(step) is Mode.REST:  # the server goes on with what it has
            visit = client.visit(samples)
            client.outgoing["up_activation"].spare(step, visit)
            client.incoming["down_gradient"].spare(step, visit)
            return math.nan
        activation, packet = self.open(client, samples, batch, "down_gradient", step)
        if self.context.head_trains(step):
            gradient = client.incoming["down_gradient"].decode(packet)
            assert activation is not None and gradient is not None
            activation.backward(gradient)
        else:
            client.incoming["down_gradient"].book(packet)
        return math.nan

    def open(
        self, client: LogicalClient, samples: Sequence[Sample], batch: Batch, link: str, step: int
    ) -> tuple[Tensor | None, Packet]:
        """Send the head's activation (T, d) and wait for the answer on `link`; if the server's references differ,
        send it anew. The activation is None if nothing of it was to be sent."""
        visit = client.visit(samples)
        activation = self.forward_head(client, batch, visit, step)
        self.send_activation(client, batch, visit, activation, link, step)
        packet = client.incoming[link].receive(step, visit)
        if packet.asks_for_resync:
            client.incoming[link].book(packet)
            reason = f"the server's store of client {client.id} differed; sending I frames again"
            record_event(self.context.log, step, "resync", reason)
            client.forget_sent()
            visit = client.visit(samples)
            activation = self.forward_head(client, batch, visit, step) if activation is None else activation
            self.send_activation(client, batch, visit, activation, link, step)
            packet = client.incoming[link].receive(step, visit)
            if packet.asks_for_resync:
                raise WireError(f"{self.edge.peer}, step {step}: store_digest: differs even after a resync")
        return activation, packet

    def forward_head(self, client: LogicalClient, batch: Batch, visit: Visit, step: int) -> Tensor | None:
        """The head's activation at real positions (T, d); None if nothing of it would be sent."""
        if not client.outgoing["up_activation"].encoder.needs_values(visit):
            return None
        with torch.set_grad_enabled(self.context.head_trains(step)):
            return to_ragged(forward_blocks(self.head, input_ids=batch.input_ids), batch.lengths)

    def send_activation(
        self, client: LogicalClient, batch: Batch, visit: Visit, activation: Tensor | None, answer: str, step: int
    ) -> None:
        """Encode and send one batch, with the words that name it."""
        client.outgoing["up_activation"].send(
            step,
            visit,
            activation,
            answer_digest=client.incoming[answer].decoder.store.digest,
            also=client.introduce(visit, batch.targets),
        )

    def average(self, step: int) -> None:
        """Replace every client's adapter by the mean over all clients, weighted by target tokens."""
        world, clients = self.context.world, self.clients.values()
        world.announce(f"round/{step}")  # the aggregator waits for this, not inside the reduction
        started = time.perf_counter()
        weighted = torch.stack([client.weight * flatten(client.adapter) for client in clients]).sum(dim=0)
        weight = sum(client.weight for client in clients)
        own = weighted / weight if weight else None  # None: since the last averaging none of them had a batch
        mean, total, size = self.averaging.mean(own, weight, world.averaging_group)
        world.hold(size, started)
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
