"""The aggregator: averages client adapters, evaluates the whole model, decides thresholds."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.comm.reduce import receive_vector, weighted_mean
from splitcom_dist.config import Config
from splitcom_dist.control.bang_bang import BangBang
from splitcom_dist.control.controller import Controller, Observation
from splitcom_dist.control.fixed import Fixed
from splitcom_dist.data.tokens import Sample
from splitcom_dist.metrics.perplexity import Perplexity, perplexity
from splitcom_dist.models.lora import unflatten_into
from splitcom_dist.roles.context import Context
from splitcom_dist.telemetry.records import record_evaluation, record_round, record_threshold


def make_controller(config: Config) -> Controller:
    """The controller of the run, as configured."""
    if config.control.name == "bang_bang":
        return BangBang(config.codec, config.control.bang_bang)
    return Fixed(config.codec)


@dataclass(frozen=True)
class WholeModel:
    """The whole model, and its adapter parameters as clients (head) and servers (body) train them."""

    model: PreTrainedModel
    head: Sequence[nn.Parameter]
    body: Sequence[nn.Parameter]


class AggregatorRole:
    """Holds the whole model, to evaluate what the others train. `validation` is the held-out split."""

    def __init__(self, context: Context, whole: WholeModel, validation: Sequence[Sample], metrics_file: Path) -> None:
        self.context = context
        self.model = whole.model
        self.whole = whole
        self.validation = validation
        self.metrics_file = metrics_file
        self.controller = make_controller(context.config)
        self.untuned: Perplexity | None = None
        self.tuned: Perplexity | None = None

    def run(self) -> None:
        schedule = self.context.schedule
        self.untuned = self.evaluate(step=-1)
        self.announce_verdict(-1, self.untuned)
        for step in range(schedule.total_steps):
            if schedule.averages_after(step):
                self.average(step)
            if schedule.evaluates_after(step):
                self.collect_server_adapters(step)
                self.tuned = self.evaluate(step)
                self.announce_verdict(step, self.tuned)
            self.context.log.flush()

    def average(self, step: int) -> None:
        """Take part in the clients' averaging with weight 0, and keep the mean."""
        world = self.context.world
        clients = list(world.layout.client_ranks)
        world.wait_for(f"round/{step}", clients, f"the averaging after step {step}")
        started = time.perf_counter()
        silent = torch.zeros(sum(parameter.numel() for parameter in self.whole.head))
        mean, weight, size = weighted_mean(silent, 0.0, world.averaging_group)
        unflatten_into(mean, self.whole.head)
        self.context.ledger.adapters(size)
        epoch = self.context.schedule.epoch_of(step)
        record_round(self.context.log, step, epoch, 0, weight, size, time.perf_counter() - started)

    def collect_server_adapters(self, step: int) -> None:
        """Receive the adapter of the body; all servers hold the same one."""
        world = self.context.world
        length = sum(parameter.numel() for parameter in self.whole.body)
        for server in world.layout.server_ranks:
            world.wait_for(f"adapter/{server}/{step}", [server], f"the adapter of the server after step {step}")
            vector = receive_vector(length, server, world.server_groups[server])
            unflatten_into(vector, self.whole.body)

    def evaluate(self, step: int) -> Perplexity:
        """Perplexity on the validation split, logged; step -1 is the model before training."""
        started = time.perf_counter()
        batch_size = self.context.config.eval.batch_size
        result = perplexity(self.model, self.validation, batch_size, self.context.world.beat)
        epoch = self.context.schedule.epoch_of(step)
        record_evaluation(self.context.log, step, epoch, result, time.perf_counter() - started)
        line = {"step": step, "epoch": epoch, "split": "validation", "loss": result.loss, "ppl": result.ppl}
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    def announce_verdict(self, step: int, result: Perplexity) -> None:
        """Tell every rank the perplexity and the thresholds of the next epoch."""
        epoch = self.context.schedule.epoch_of(step)
        decisions = self.controller.decide(Observation(epoch, result.ppl))
        for decision in decisions:
            record_threshold(self.context.log, epoch, self.controller.name, decision)
        theta = {decision.link: decision.theta for decision in decisions}
        self.context.world.announce(f"verdict/{step}", json.dumps({"ppl": result.ppl, "theta": theta}))
