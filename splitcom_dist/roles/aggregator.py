"""The aggregator: averages client adapters, evaluates the whole model, decides thresholds."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.comm.layer_mean import LayerMean
from splitcom_dist.comm.reduce import make_receiving
from splitcom_dist.control.choice import make_controller
from splitcom_dist.control.controller import Observation
from splitcom_dist.control.rest import Gain
from splitcom_dist.cuts.policy import make_policy
from splitcom_dist.cuts.work import Work
from splitcom_dist.data.tokens import Sample
from splitcom_dist.metrics.perplexity import Perplexity, perplexity
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.models.merging import MergedWeights
from splitcom_dist.presence.welcome import welcome_all
from splitcom_dist.roles.averaging import end_of_aggregator
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.cut_moves import decide_moves
from splitcom_dist.roles.verdicts import Reports, announce_verdict
from splitcom_dist.run_directory import RunDirectory, save_tensors
from splitcom_dist.state import State, Stateful, facts, gathered, read_facts, spread
from splitcom_dist.telemetry.records import record_evaluation, record_event, record_round, record_threshold


@dataclass(frozen=True)
class WholeModel:
    """The whole model, and its adapter parameters: those that clients train, and those that only servers do."""

    model: PreTrainedModel
    of_clients: Sequence[nn.Parameter]
    of_servers: Sequence[nn.Parameter]


class AggregatorRole:
    """Holds the whole model, to evaluate what the others train. `validation` is the held-out split."""

    def __init__(
        self,
        context: Context,
        whole: WholeModel,
        validation: Sequence[Sample],
        directory: RunDirectory,
        ranks: Ranks,
        work: Work,
        shared: LayerMean | None = None,
        merged: MergedWeights | None = None,
    ) -> None:
        """`work` is that of the model's parts; `shared` averages the last of `whole.of_clients`, which servers train
        too where cuts are mixed; `merged` takes in averages, where these do not stay beside the weights."""
        self.context = context
        self.model = whole.model
        self.whole = whole
        self.validation = validation
        self.directory = directory
        self.reports = Reports(context)
        adapter, of_servers = flatten(whole.of_clients), flatten(whole.of_servers)
        self.merged = merged
        self._moved_from = self.average_now
        self.averaging = end_of_aggregator(context, adapter, ranks, shared, merged)
        self.ranks = ranks
        self.receiving = make_receiving(context.config.fed.adapter_quantizer, of_servers)
        self.controller = make_controller(context.config)
        self.policy = make_policy(context.config, work, context.world.layout) if context.cuts.move_about else None
        self.rest = Gain(context.config.rest) if context.config.rest.policy == "gain" else None
        self.verdict = ""  # the last one
        self.untuned: Perplexity | None = None
        self.tuned: Perplexity | None = None

    @property
    def holds(self) -> nn.Module:
        """All weights of this rank."""
        return cast(nn.Module, self.model)

    def run(self) -> None:
        schedule = self.context.schedule
        if not self.context.course.resumes:
            self.untuned = self.evaluate(step=-1)
            self.decide(-1, self.untuned)
        for step in self.context.course.steps(self):
            if self.context.world.tolerant and schedule.ends_round(step - 1):
                welcome_all(self.context.world, step, flatten(self.whole.of_clients), self.verdict)
            if schedule.averages_after(step):
                self.average(step)
            if self.policy is not None and schedule.moves_cuts_after(step):
                moves = decide_moves(self.context, step, self.policy)
                self.context.cuts.move({move.client: move.new for move in moves})
            result = None
            if schedule.evaluates_after(step):
                self.collect_server_adapter(step)
                result = self.tuned = self.evaluate(step)
            if schedule.decides_after(step):
                self.decide(step, result)

    def state(self) -> State:
        adapters = {"clients": flatten(self.whole.of_clients), "servers": flatten(self.whole.of_servers)}
        results = {name: result and asdict(result) for name, result in self._results.items()}
        told = {"results": results, "verdict": self.verdict}
        return {**gathered(self._memory), **adapters, "moved_from": self._moved_from, "told": facts(told)}

    def load(self, state: State) -> None:
        spread(state, self._memory)
        unflatten_into(state["clients"], self.whole.of_clients)
        unflatten_into(state["servers"], self.whole.of_servers)
        self._moved_from = state["moved_from"].clone()
        told = read_facts(state["told"])
        results, self.verdict = told["results"], told["verdict"]
        self.untuned, self.tuned = (
            Perplexity(**results[name]) if results[name] else None for name in ("untuned", "tuned")
        )

    @property
    def _results(self) -> dict[str, Perplexity | None]:
        return {"untuned": self.untuned, "tuned": self.tuned}

    @property
    def _memory(self) -> dict[str, Stateful]:
        optional = {"rest": self.rest, "policy": self.policy, "merged": self.merged}
        return {
            "reports": self.reports,
            "averaging": self.averaging,
            "receiving": self.receiving,
            "controller": self.controller,
            **{name: part for name, part in optional.items() if part is not None},
        }

    def average(self, step: int) -> None:
        """Take part with weight 0 in the averaging of what clients train, and keep the mean."""
        world = self.context.world
        world.await_round(step)
        started = time.perf_counter()
        before, moved_from = flatten(self.whole.of_clients), self.average_now
        mean, weight, size = self.averaging.mean(before, step)
        if weight:  # else nobody who is left has trained since the last one
            unflatten_into(self.ranks.kept(mean, before), self.whole.of_clients)
        self.context.ledger.adapters(size)
        epoch, seconds = self.context.schedule.epoch_of(step), time.perf_counter() - started
        movement = float(torch.linalg.vector_norm(self.average_now - moved_from))
        record_round(self.context.log, step, epoch, 0, weight, size, seconds, movement)

    def collect_server_adapter(self, step: int) -> None:
        """Receive the adapter of the body from the first server; all hold the same one."""
        world = self.context.world
        world.wait_for(f"adapter/{step}", list(world.layout.server_ranks), f"the adapter of the body after step {step}")
        assert world.groups.evaluation is not None
        unflatten_into(self.receiving.receive(world.groups.evaluation), self.whole.of_servers)

    def evaluate(self, step: int) -> Perplexity:
        """Perplexity on the validation split, logged; step -1 is the model before training."""
        started = time.perf_counter()
        batch_size = self.context.config.eval.batch_size
        result = perplexity(self.model, self.validation, batch_size, self.context.world.beat)
        epoch = self.context.schedule.epoch_of(step)
        record_evaluation(self.context.log, step, epoch, result, time.perf_counter() - started)
        line = {"step": step, "epoch": epoch, "split": "validation", "loss": result.loss, "ppl": result.ppl}
        with self.directory.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    def decide(self, step: int, result: Perplexity | None) -> None:
        """Hear every rank's report, move the thresholds, and tell the verdict."""
        schedule, reports = self.context.schedule, self.reports
        if step >= 0:
            reports.collect(step)
        epoch = schedule.epoch_of(step)
        observation = Observation(
            step,
            epoch,
            progress=(step + 1) / schedule.total_steps,
            validation_loss=result.loss if result else None,
            train_loss=reports.train_loss,
            use=reports.use,
            other_bytes=reports.other_bytes,
            lr=reports.lr,
            movement=self.movement(),
        )
        decisions = self.controller.decide(observation)
        for decision in decisions:
            record_threshold(self.context.log, step, epoch, self.controller.name, decision)
        mode = None
        if self.rest is not None:
            mode, reason = self.rest.decide(observation)
            if reason:
                record_event(self.context.log, step, "rest", reason)
        self.verdict = announce_verdict(self.context, step, result, decisions, mode)
        if memory := self.controller.checkpoint():
            save_tensors(self.directory.checkpoints / f"{self.controller.name}.safetensors", memory)

    def movement(self) -> float:
        """How far the clients' average has moved since this was last asked."""
        now = self.average_now
        moved = torch.linalg.vector_norm(now - self._moved_from)
        self._moved_from = now
        return float(moved)

    @property
    def average_now(self) -> Tensor:
        """The clients' averaged adapter (n,), or the weights that it was merged into."""
        return flatten(self.whole.of_clients) if self.merged is None else self.merged.values
