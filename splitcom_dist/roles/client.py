"""A client rank: its logical clients take turns with the same frozen blocks, each with its own adapter."""

import json
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
from splitcom_dist.cuts.measured import Measured, Measures
from splitcom_dist.data.batching import Batch, collate
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import WireError
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.presence.comeback import Attendance, ask_for_welcome
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import Blocks, move_own, tell_measures
from splitcom_dist.roles.flows.incoming import Packet
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.mean_share import MeanShare
from splitcom_dist.roles.pace import Pace
from splitcom_dist.roles.roster import Roster
from splitcom_dist.roles.verdicts import await_verdict, report, take
from splitcom_dist.state import State, Stateful, facts, gathered, read_facts, spread
from splitcom_dist.telemetry.records import record_event, record_round, record_training


class ClientRole:
    """The blocks before the deepest cut of its logical clients, and their text. `edge` leads to its server."""

    def __init__(
        self,
        context: Context,
        head: PreTrainedModel,
        edge: Edge,
        clients: Roster[LogicalClient],
        share: MeanShare,
        blocks: Blocks,
    ) -> None:
        """`blocks` are those that servers train too, at least for some clients."""
        self.attendance = Attendance(context.world, edge)
        self.context = context
        self.head = head
        self.edge = edge
        self.clients = clients
        self.blocks = blocks
        self.measures = Measures()
        self.share = share
        self.pace = Pace(context.config.fed, context.config.train.seed)
        self.lr = context.config.train.lr  # of the client that had the last turn

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.head)

    def run(self) -> None:
        schedule, world = self.context.schedule, self.context.world
        if not self.context.course.resumes:
            self.take_verdict(-1)  # on the model before training
            self.record_speeds()
            self.record_cuts()
        for step in self.context.course.steps(self):
            for number in schedule.turns(step, world.rank) if self.attendance.attends(step) else ():
                if self.pace.is_late(number):
                    self.leave_out(self.clients[number], step)
                else:
                    self.train(self.clients[number], step)
            if schedule.averages_after(step):
                self.average(step)
            if schedule.moves_cuts_after(step):
                self.move_cuts(step)
            if schedule.ends_round(step):
                for line in self.pace.end_round():
                    record_event(self.context.log, step, "deadline", line)
            if schedule.decides_after(step):
                report(self.context, step, self.lr, self.clients)
                self.take_verdict(step)

    def come_back(self) -> None:
        """Take part again in a run that went on without this rank: from the mean that all have, with new optimizers."""
        welcome = ask_for_welcome(self.context.world, len(self.share.mean))
        self.share.mean = welcome.mean
        take(json.loads(welcome.verdict), self.context, self.clients)
        self.context.course.enter(welcome.step)

    def state(self) -> State:
        return {**gathered(self._memory), "facts": facts({"lr": self.lr})}

    def load(self, state: State) -> None:
        spread(state, self._memory)
        self.lr = read_facts(state["facts"])["lr"]

    @property
    def _memory(self) -> dict[str, Stateful]:
        pace = {"pace": self.pace} if self.pace.has_deadline else {}
        return {"share": self.share, "clients": self.clients, **pace}

    def train(self, client: LogicalClient, step: int) -> None:
        """One batch of one logical client: head forward, exchange with the server, head backward, optimizer step."""
        started, waited, worked = time.perf_counter(), self.edge.waited, self.pace.worked(client.id)
        samples = self.context.schedule.batch(client.samples, client.id, step, self.context.config.train.seed)
        batch = collate(samples, self.context.device)
        targets = sum(map(len, batch.targets))
        client.optimizer.catch_up(step)
        lr = client.optimizer.lr
        self.share.bring_up_to_date(client)
        client.enter()
        loss = self.turn(client, samples, batch, step)
        if self.trains(step):
            with self.pace.computing(client.id):
                client.step(targets)
            self.share.add(client.id, targets)
        else:
            client.rest()
        self.lr = client.optimizer.lr
        waited = self.edge.waited - waited
        tokens, seconds = int(batch.lengths.sum()), time.perf_counter() - started - waited
        self.context.ledger.trained(tokens)
        computing = self.pace.worked(client.id) - worked
        self.measures.add(client.id, Measured(turns=1, computing=computing, sending=seconds - computing), loss, targets)
        record_training(
            self.context.log,
            step,
            self.context.schedule.epoch_of(step),
            client.id,
            loss=loss / targets,
            tokens=tokens,
            targets=targets,
            lr=lr,
            seconds=seconds,
            wait=waited,
        )

    def leave_out(self, client: LogicalClient, step: int) -> None:
        """The packet that opens a turn says that there is none: the server goes on without this client."""
        client.outgoing["up_activation"].tell_absence(step)
        self.pace.leave_out(client.id)

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
            with self.pace.computing(client.id):
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
        with self.pace.computing(client.id), torch.set_grad_enabled(self.context.head_trains(step)):
            cut_layer = self.context.cuts.of(client.id)
            return to_ragged(forward_blocks(self.head, input_ids=batch.input_ids, last=cut_layer), batch.lengths)

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
        """The mean over all clients that have trained since the last one, weighted by target tokens: all go on from
        it. Blocks that servers train for clients with a shallower cut are averaged with theirs."""
        world = self.context.world
        world.announce(f"round/{step}")  # the aggregator waits for this, not inside the sum
        started = time.perf_counter()
        participants = len(self.share.weights)
        total, size = self.share.average(step)
        world.hold(size, started)
        self.context.ledger.adapters(size)
        epoch = self.context.schedule.epoch_of(step)
        seconds = time.perf_counter() - started
        record_round(self.context.log, step, epoch, participants, total, size, seconds)

    def move_cuts(self, step: int) -> None:
        """Hear which clients are cut elsewhere from now on; ours exchange with the server what belongs to it."""
        moves = tell_measures(self.context, step, self.measures)
        move_own(self.context, step, moves, self.clients, self.blocks)
        self.context.cuts.move({move.client: move.new for move in moves})

    def record_speeds(self) -> None:
        """Log which of our clients are slow devices."""
        for number in self.context.world.layout.clients_of(self.context.world.rank):
            if (speed := self.pace.speed(number)) < 1:
                record_event(self.context.log, -1, "speed", f"client {number} computes at {speed:.4f} of its rank's")

    def record_cuts(self) -> None:
        """Log where each of our clients is cut, if they are told one by one."""
        if self.context.config.fed.cut_layers is not None or self.context.cuts.move_about:
            for number in self.context.world.layout.clients_of(self.context.world.rank):
                cut_layer = self.context.cuts.of(number)
                record_event(self.context.log, -1, "cut", f"client {number} is cut after {cut_layer} blocks")

    def take_verdict(self, step: int) -> None:
        """Wait for the aggregator's decision; it brings the thresholds from now on."""
        await_verdict(self.context, step, self.clients)
