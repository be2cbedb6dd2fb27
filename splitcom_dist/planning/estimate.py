"""What a run would take on a measured cluster: seconds, bytes and memory of one choice of cut layer, rank and codec."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.data.tokens import Sample
from splitcom_dist.layout import Layout
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import body, head
from splitcom_dist.plan.blocks import ModelShape, model_shape
from splitcom_dist.plan.cluster import Profile, RankSpeed
from splitcom_dist.plan.rounds import RoundCurve
from splitcom_dist.plan.saved import saved_bytes
from splitcom_dist.plan.steps import ClientRank, Course, ServerRank
from splitcom_dist.plan.workload import Adapter, Batch, adapter_elements, cut_bytes, part_parameters
from splitcom_dist.predict import predict_adapters, predict_links
from splitcom_dist.schedule import Schedule

PACKETS = 3  # of the size of an activation that a rank holds at once: rows, their encoding, the message


@dataclass(frozen=True)
class Choice:
    cut_layer: int
    rank: int
    codec: str

    def applied(self, config: Config) -> Config:
        """The configuration with this choice; alpha keeps its ratio to the rank, and so the adapter its scale."""
        chosen = copy.deepcopy(config)
        chosen.model.cut_layer, chosen.lora.rank = self.cut_layer, self.rank
        chosen.lora.alpha = config.lora.alpha * self.rank / config.lora.rank
        chosen.codec = load_config([], [f"codec={self.codec}"]).codec
        return chosen


@dataclass(frozen=True)
class Estimate:
    choice: Choice
    step_seconds: float  # averagings included, evaluations not
    run_seconds: float  # as many steps as are worth those of the configured rank
    link_bytes: Mapping[str, int]  # of the whole run
    adapter_bytes: int
    client_memory: int  # bytes of one rank
    server_memory: int

    @property
    def bytes(self) -> int:
        return sum(self.link_bytes.values()) + self.adapter_bytes


@dataclass(frozen=True)
class Setting:
    """What is the same for all choices."""

    config: Config
    source: ModelSource
    layout: Layout
    schedule: Schedule
    shards: Mapping[int, Sequence[Sample]]
    profile: Profile
    rounds: RoundCurve

    @property
    def shape(self) -> ModelShape:
        return model_shape(self.source.config)

    @property
    def batch(self) -> Batch:
        return Batch(self.profile.samples, self.profile.length, self.profile.targets)


def estimate(setting: Setting, choice: Choice) -> Estimate:
    """Of one choice; an entropy-coded or gated codec has no bytes to foresee and is none of them."""
    config, schedule, shape = choice.applied(setting.config), setting.schedule, setting.shape
    adapter = Adapter(choice.rank, config.lora.target_modules)
    of_clients = adapter_elements(shape, adapter, 0, choice.cut_layer)
    of_servers = adapter_elements(shape, adapter, choice.cut_layer, shape.blocks)
    links = {name: link.most for name, link in predict_links(config, setting.source, schedule, setting.shards).items()}
    turns = sum(len(schedule.active_clients(step)) for step in range(schedule.total_steps))
    course = Course(
        clients=[
            _client(setting, choice, rank, {name: size / turns for name, size in links.items()})
            for rank in setting.layout.client_ranks
        ],
        servers=[_server(setting, choice, rank) for rank in setting.layout.server_ranks],
        steps=schedule.steps_per_epoch,
        round_steps=schedule.round_steps,
        adapter_bytes=4 * (of_clients + 1),
    )
    step_seconds = course.seconds() / schedule.steps_per_epoch
    worth = setting.rounds(choice.rank) / setting.rounds(setting.config.lora.rank)
    return Estimate(
        choice,
        step_seconds,
        step_seconds * schedule.total_steps * worth,
        links,
        predict_adapters(config, schedule, of_clients, of_servers),
        _memory(setting, config, "client", of_clients),
        _memory(setting, config, "server", of_servers),
    )


def _client(setting: Setting, choice: Choice, rank: int, packets: Mapping[str, float]) -> ClientRank:
    speed = _speed(setting.profile, rank)
    edge = next(edge for edge in setting.profile.edges if edge.client_rank == rank)
    codec, blocks = speed.codecs[choice.codec], choice.cut_layer
    return ClientRank(
        turns=len(setting.layout.clients_of(rank)),
        before=speed.forward(blocks) + codec.encode,
        after=codec.decode + speed.backward(blocks) + speed.optimizer(blocks),
        up_bytes=packets["up_activation"],
        down_bytes=packets["down_gradient"],
        up=edge.up,
        down=edge.down,
        latency=edge.latency_seconds,
    )


def _server(setting: Setting, choice: Choice, rank: int) -> ServerRank:
    speed, blocks = _speed(setting.profile, rank), setting.shape.blocks - choice.cut_layer
    codec = speed.codecs[choice.codec]
    return ServerRank(
        clients=[client for client, server in setting.layout.edges() if server == rank],
        serve=codec.decode + speed.forward(blocks) + speed.backward(blocks) + codec.encode,
        optimizer=speed.optimizer(blocks),
    )


def _memory(setting: Setting, config: Config, role: str, adapters: int) -> int:
    """Weights, adapters with gradient and moments (those of every logical client), saved tensors, packets, process."""
    shape, cut, dtype = setting.shape, config.model.cut_layer, getattr(torch, config.model.dtype)
    part = head(cut) if role == "client" else body(cut, shape.blocks)
    owners = max(len(setting.layout.clients_of(rank)) for rank in setting.layout.client_ranks)
    copies = 1 + 3 * (owners if role == "client" else 1)
    saved = saved_bytes(setting.source, config.lora, dtype, part, setting.batch, trains=True)
    process = max(speed.process_bytes for speed in setting.profile.of_role(role))
    weights = part_parameters(shape, part.first, part.last, lm_head=part.lm_head) * dtype.itemsize
    packets = PACKETS * cut_bytes(shape, setting.batch.positions, dtype.itemsize)
    return int(weights + 4 * copies * adapters + saved + packets + process)


def _speed(profile: Profile, rank: int) -> RankSpeed:
    return next(speed for speed in profile.ranks if speed.rank == rank)
