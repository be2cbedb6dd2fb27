"""A server rank: it serves its clients in waves, then steps on all their gradients. It never sees text.

Several servers sum their gradients before every step, so that all take the step that one would take; so do the shards
of a server, of which this is the leader (shard.py has the others). What a wave is made of differs by shape:
standard_server.py and u_server.py.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.attendance import Mode
from splitcom_dist.comm.arrivals import Arrivals
from splitcom_dist.comm.gradients import StepTotals, sum_gradients
from splitcom_dist.comm.outbox import Ahead
from splitcom_dist.comm.reduce import make_sending
from splitcom_dist.cuts.measured import Measured, Measures
from splitcom_dist.models.lora import flatten, unflatten_into, without
from splitcom_dist.presence.service import Service
from splitcom_dist.roles.body import make_body
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import move_served, tell_measures
from splitcom_dist.roles.overlap import Overlap
from splitcom_dist.roles.pipeline import Place, groups, place_in
from splitcom_dist.roles.roster import Roster
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.shared_blocks import SharedBlocks
from splitcom_dist.roles.turn import Turn, whole_turns
from splitcom_dist.roles.verdicts import await_verdict, report
from splitcom_dist.state import State, Stateful, gathered, spread
from splitcom_dist.telemetry.progress import Progress
from splitcom_dist.telemetry.records import SERVER, record_event, record_gradients, record_round, record_training
from splitcom_dist.training import AdapterOptimizer


class ServerRole(ABC):
    """The blocks behind the cut, and their adapters; `clients` are the logical clients of the ranks in `service`."""

    def __init__(
        self,
        context: Context,
        model: PreTrainedModel,
        parameters: Sequence[nn.Parameter],
        clients: Roster[ServedClient],
        service: Service,
        progress: Progress,
        shared: SharedBlocks | None = None,
    ) -> None:
        """`shared` are the first of `parameters`, where some clients train those themselves."""
        self.context = context
        self.model = model
        self.body = make_body(model, context)
        self.clients = clients
        self.service = service
        self.progress = progress
        self.parameters = list(parameters)
        self.shared = shared
        self.measures = Measures()
        self.overlap = Overlap(context)
        roles = context.config.roles
        self.arrivals = Arrivals(roles.batching_window) if roles.server_batching == "arrival" else None
        self.absent: set[int] = set()  # clients that have no batch for this step
        self.deep = without(self.parameters, shared.parameters if shared else [])
        self.sending = make_sending(context.config.fed.adapter_quantizer, flatten(self.deep))
        self.optimizer = AdapterOptimizer(self.parameters, context.config.train, context.schedule.total_steps)

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.model)

    def run(self) -> None:
        schedule = self.context.schedule
        self.progress.start(schedule.total_steps, schedule.epochs)
        try:
            if not self.context.course.resumes:
                self.take_verdict(-1)  # on the model before training
            for step in self.context.course.steps(self):
                self.step(step)
                if self.shared is not None and schedule.averages_after(step):
                    self.average(self.shared, step)
                    if schedule.moves_cuts_after(step):
                        self.move_cuts(self.shared, step)
                if schedule.evaluates_after(step) and self.speaks_for_all:
                    self.send_adapter(step)
                if schedule.decides_after(step):
                    report(self.context, step, self.optimizer.lr, self.clients)
                    self.take_verdict(step)
        finally:
            self.progress.close()
            self.service.close()

    def state(self) -> State:
        return {**gathered(self._memory), "adapter": flatten(self.parameters)}

    def load(self, state: State) -> None:
        spread(state, self._memory)
        unflatten_into(state["adapter"], self.parameters)

    @property
    def _memory(self) -> dict[str, Stateful]:
        shared = {} if self.shared is None else {"shared": self.shared}
        return {"optimizer": self.optimizer, "sending": self.sending, "clients": self.clients, **shared}

    @abstractmethod
    def serve(self, wave: list[ServedClient], together: range, step: int) -> list[Turn]:
        """Every transfer of micro-batches that are under way together, of the clients of one wave; adapter gradients
        of their summed losses accumulate."""

    def step(self, step: int) -> None:
        """Serve every active client of ours, then step on the gradients of all servers' weighted by target tokens."""
        started, ahead = time.perf_counter(), self.overlap.at(step)
        parts: list[Turn] = []
        self.call_the_roll(step)
        served: list[ServedClient] = []
        for numbers in self.context.schedule.waves(step, self.context.world.rank):
            wave = self.clients.present([number for number in numbers if self.service.serves(self.rank_of(number))])
            for client in wave:
                client.edge.ahead = ahead if self.arrivals is None else max(ahead, Ahead.CROSSING)
                if self.arrivals is not None:
                    self.arrivals.attend(client.edge)
            count = max((self.context.schedule.micro_batches_of(number, step) for number in numbers), default=0)
            for together in groups(count, bool(ahead)):
                for client, _ in () if self.opens(step) else self.due(wave, together, together.start, step):
                    with self.service.tolerating(self.rank_of(client.number)):
                        client.incoming["up_activation"].expect(step)
                parts += self.serve(wave, together, step)
            self.finish(wave)
            served += wave
        self.body.end_step(step)
        arrived, waited = time.perf_counter(), sum(turn.waited for turn in parts)
        turns = [turn for turn in whole_turns(parts) if turn.targets]
        totals = self.sum_over_servers(turns, step)
        waited += time.perf_counter() - arrived
        lr = self.optimizer.lr
        if self.shared is not None:
            self.shared.weigh(totals)
        self.optimizer.step_on_mean(totals.targets)
        self.settle(served)
        self.overlap.measure(step, time.perf_counter() - started, totals.tokens)
        if not totals.targets:  # nobody has a batch: who was drawn for this round has none left, or all are late
            return
        for turn in turns:
            self.book(turn, step, lr)
            answering = turn.seconds - turn.computing
            measured = Measured(sending=turn.arriving, serving=turn.computing, answering=answering)
            self.measures.add(turn.client, measured, turn.loss, turn.targets)
        if self.speaks_for_all:
            seconds = time.perf_counter() - started - waited
            of_all = Turn(SERVER, totals.loss, totals.tokens, totals.targets, seconds, waited=waited)
            self.book(of_all, step, lr)
            epoch = self.context.schedule.epoch_of(step)
            self.progress.step(step, epoch, totals.loss / totals.targets, totals.tokens, totals.crossed_bytes)

    def due(
        self, wave: Sequence[ServedClient], together: range, number: int, step: int
    ) -> Iterator[tuple[ServedClient, Place]]:
        """Clients of a wave that have a micro-batch of this number, and its place among those under way together."""
        for client in wave:
            count = self.context.schedule.micro_batches_of(client.number, step)
            here = client.number not in self.absent and self.service.serves(self.rank_of(client.number))
            if here and number < count:
                yield client, place_in(together, number, count)

    def finish(self, wave: Sequence[ServedClient]) -> None:
        """See that all answers to this wave are encoded: with the next one its clients may be parked."""
        for client in wave:
            if self.service.serves(rank := self.rank_of(client.number)):
                with self.service.tolerating(rank):
                    client.edge.finish()

    def settle(self, served: Sequence[ServedClient]) -> None:
        """See that all that was sent in this step has left."""
        for client in served:
            if self.service.serves(rank := self.rank_of(client.number)):
                with self.service.tolerating(rank):
                    client.edge.settle()

    def call_the_roll(self, step: int) -> None:
        """Forget what was kept for client ranks that are lost; those who have come back begin afresh."""
        self.absent.clear()
        lost, come = self.service.begin(step)
        for rank in lost:
            self.clients.forget(self.context.world.layout.clients_of(rank))
        for kind, told in (("lost", lost.values()), ("back", map(self.context.world.layout.name_of, come))):
            for text in told:
                record_event(self.context.log, step, kind, text)

    def rank_of(self, number: int) -> int:
        """The rank of a logical client."""
        return self.context.world.layout.rank_of(number)

    def sum_over_servers(self, turns: Sequence[Turn], step: int) -> StepTotals:
        """Make every gradient the sum over all servers and their shards; returns what is behind it."""
        world, ledger, started = self.context.world, self.context.ledger, time.perf_counter()
        totals = StepTotals(
            sum(turn.targets for turn in turns),
            sum(turn.tokens for turn in turns),
            sum(turn.loss for turn in turns),
            ledger.crossed_bytes,
            () if self.shared is None else self.shared.count({turn.client: turn.targets for turn in turns}),
        )
        if world.groups.gradients is None:
            return totals
        others = world.layout.one_of(rank for rank in world.layout.body_ranks if rank != world.rank)
        totals, size = sum_gradients(self.parameters, totals, world.groups.gradients, others, step)
        if len(world.layout.server_ranks) == 1:  # only shards of this server took part
            return totals
        ledger.adapters(size)
        seconds, epoch = time.perf_counter() - started, self.context.schedule.epoch_of(step)
        record_gradients(self.context.log, step, epoch, len(turns), totals.targets, size, seconds)
        return totals

    def average(self, shared: SharedBlocks, step: int) -> None:
        """Blocks that some clients train themselves are averaged with theirs, by target tokens, and all go on from
        the mean."""
        started, schedule = time.perf_counter(), self.context.schedule
        weight, size = shared.average(step)
        self.context.ledger.adapters(size)
        seconds = time.perf_counter() - started
        record_round(self.context.log, step, schedule.epoch_of(step), 0, weight, size, seconds)

    def move_cuts(self, shared: SharedBlocks, step: int) -> None:
        """Hear which clients are cut elsewhere from now on; exchange with ours what the optimizers remember."""
        moves = tell_measures(self.context, step, self.measures)
        move_served(self.context, step, moves, self.clients, shared.by_number, self.optimizer)
        self.context.cuts.move({move.client: move.new for move in moves})

    @property
    def speaks_for_all(self) -> bool:
        """Whether this is the server that the aggregator and the user hear of."""
        return self.context.world.rank == self.context.world.layout.first_server

    def book(self, turn: Turn, step: int, lr: float) -> None:
        record_training(
            self.context.log,
            step,
            self.context.schedule.epoch_of(step),
            turn.client,
            loss=turn.loss / turn.targets,
            tokens=turn.tokens,
            targets=turn.targets,
            lr=lr,
            seconds=turn.seconds,
            wait=turn.waited,
        )

    def without(self, client: ServedClient, waited: float) -> Turn:
        """The turn of an absent client, for whose word we have waited since its edge had waited for so long."""
        self.context.ledger.left_out()
        self.absent.add(client.number)
        return Turn(client.number, loss=0.0, waited=client.edge.waited - waited)

    def opens(self, step: int) -> bool:
        """Whether this step begins here: heads rest, and nothing comes up from them."""
        return self.context.schedule.mode(step) is Mode.REST

    def send_adapter(self, step: int) -> None:
        """Hand the adapter to the aggregator, which evaluates with it."""
        world = self.context.world
        world.announce(f"adapter/{step}")
        assert world.groups.evaluation is not None
        size = self.sending.send(flatten(self.deep), world.groups.evaluation)
        self.context.ledger.adapters(size)

    def take_verdict(self, step: int) -> None:
        """Wait for the aggregator's decision and show its evaluation, if there was one."""
        ppl = await_verdict(self.context, step, self.clients)
        if ppl is not None:
            self.progress.evaluated(self.context.schedule.epoch_of(step), ppl)
