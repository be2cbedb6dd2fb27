"""A client rank: its logical clients take turns with the same frozen blocks, each with its own adapter."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.attendance import Mode
from splitcom_dist.codec.ragged import to_ragged
from splitcom_dist.codec.visit import Visit
from splitcom_dist.comm.link import Edge
from splitcom_dist.cuts.measured import Measured, Measures
from splitcom_dist.data.batching import Batch, collate, in_micro_batches
from splitcom_dist.errors import WireError
from splitcom_dist.models.split import forward_blocks
from splitcom_dist.presence.comeback import Attendance, ask_for_welcome
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import Blocks, move_own, tell_measures
from splitcom_dist.roles.flows.incoming import Packet
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.mean_share import MeanShare
from splitcom_dist.roles.overlap import Overlap
from splitcom_dist.roles.pace import Pace
from splitcom_dist.roles.pipeline import MicroBatch, groups, place_in
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
        self.overlap = Overlap(context)
        self.share = share
        self.pace = Pace(context.config.fed, context.config.train.seed, context.device.type == "cpu")
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
        with closing(self.edge):
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
        sending = self.edge.sending
        client.optimizer.catch_up(step)
        lr = client.optimizer.lr
        self.share.bring_up_to_date(client)
        client.enter()
        loss, tokens, targets = 0.0, 0, 0
        self.edge.ahead = self.overlap.at(step)
        for together in self.micro_batches(client, step):
            loss += self.turn(client, together, step)
            tokens += sum(part.batch.tokens for part in together)
            targets += sum(part.batch.target_count for part in together)
        self.edge.settle()
        if self.trains(step):
            with self.pace.computing(client.id):
                client.step(targets)
            self.share.add(client.id, targets)
        else:
            client.rest()
        self.lr = client.optimizer.lr
        waited = self.edge.waited - waited
        seconds = time.perf_counter() - started - waited
        self.context.ledger.trained(tokens)
        computing = self.pace.worked(client.id) - worked
        encoding = seconds - computing - (self.edge.sending - sending)
        self.measures.add(client.id, Measured(turns=1, computing=computing, sending=encoding), loss, targets)
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

    def micro_batches(self, client: LogicalClient, step: int) -> list[list[MicroBatch]]:
        """The parts of a client's batch in their order, in groups that are under way together."""
        schedule, train = self.context.schedule, self.context.config.train
        batch = schedule.batch(client.samples, client.id, step, train.seed)
        parts = in_micro_batches(batch, train.micro_batches)
        return [
            [
                MicroBatch(
                    parts[number], collate(parts[number], self.context.device), place_in(together, number, len(parts))
                )
                for number in together
            ]
            for together in groups(len(parts), bool(self.edge.ahead))
        ]

    def leave_out(self, client: LogicalClient, step: int) -> None:
        """The packet that opens a turn says that there is none: the server goes on without this client."""
        client.outgoing["up_activation"].tell_absence(step)
        self.pace.leave_out(client.id)

    def trains(self, step: int) -> bool:
        """Whether a client steps its adapters after this batch."""
        return self.context.head_trains(step)

    def turn(self, client: LogicalClient, together: Sequence[MicroBatch], step: int) -> float:
        """Micro-batches through the cut and back; adapter gradients accumulate. Returns the summed loss (NaN: the
        server's to know)."""
        down = client.incoming["down_gradient"]
        if self.context.schedule.mode(step) is Mode.REST:  # the server goes on with what it has
            for part in together:
                visit = client.visit(part.samples)
                client.outgoing["up_activation"].spare(step, visit)
                down.spare(step, visit)
            return math.nan
        self.open(client, together, "down_gradient", step)
        for part in together:
            packet = self.answer(client, part, together, "down_gradient", step)
            if self.context.head_trains(step):
                self.backward(client, part, down.decode(packet))
            else:
                down.book(packet)
        return math.nan

    def open(self, client: LogicalClient, together: Sequence[MicroBatch], link: str, step: int) -> None:
        """Send the head's activations, to be answered on `link`."""
        for part in together:
            part.visit = client.visit(part.samples)
            if part.activation is None:
                part.activation = self.forward_head(client, part.batch, part.visit, step)
            self.send_activation(client, part, link, step)
        client.incoming[link].expect(step, together[0].visit)

    def answer(
        self, client: LogicalClient, part: MicroBatch, together: Sequence[MicroBatch], link: str, step: int
    ) -> Packet:
        """Wait for the answer to a micro-batch; if the server's references differ, send all that are under way anew."""
        incoming = client.incoming[link]
        packet = incoming.receive(step, part.visit)
        if packet.asks_for_resync:
            incoming.book(packet)
            reason = f"the server's store of client {client.id} differed; sending I frames again"
            record_event(self.context.log, step, "resync", reason)
            self.edge.finish()  # encoders must be idle
            client.forget_sent()
            self.open(client, together, link, step)
            packet = incoming.receive(step, part.visit)
            if packet.asks_for_resync:
                raise WireError(f"{self.edge.peer}, step {step}: store_digest: differs even after a resync")
        if part.place.first:
            for later in together[1:]:
                incoming.expect(step, later.visit)
        return packet

    def forward_head(self, client: LogicalClient, batch: Batch, visit: Visit, step: int) -> Tensor | None:
        """The head's activation (T, d) at real positions; None if nothing of it would be sent."""
        if not client.outgoing["up_activation"].encoder.needs_values(visit):
            return None
        with self.pace.computing(client.id), torch.set_grad_enabled(self.context.head_trains(step)):
            cut_layer = self.context.cuts.of(client.id)
            return to_ragged(forward_blocks(self.head, input_ids=batch.input_ids, last=cut_layer), batch.lengths)

    def backward(self, client: LogicalClient, part: MicroBatch, gradient: Tensor | None) -> None:
        """Through the head, from the gradient at the cut (T, d)."""
        assert part.activation is not None and gradient is not None
        with self.pace.computing(client.id):
            part.activation.backward(gradient)

    def send_activation(self, client: LogicalClient, part: MicroBatch, answer: str, step: int) -> None:
        """Encode and send one micro-batch, with the words that name it."""
        assert part.visit is not None
        client.outgoing["up_activation"].send(
            step,
            part.visit,
            part.activation,
            answer_digest=client.incoming[answer].decoder.store.digest if part.place.first else 0,
            also=client.introduce(part.visit, part.batch.targets),
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
