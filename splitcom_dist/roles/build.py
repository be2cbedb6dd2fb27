"""From configuration to a role: each rank loads its share of model and data, then ties links to it."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.codec.codec import Decoder, Encoder
from splitcom_dist.codec.labels import LabelCache, LabelSender
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.torch_p2p import TorchTransport
from splitcom_dist.config import Config
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.lora import adapter_parameters, attach_lora, is_in_head
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.models.split import Part, body, head, load_part, whole
from splitcom_dist.roles.aggregator import AggregatorRole, WholeModel
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.server import ServedClient, ServerRole
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.shards import training_shards, validation_samples
from splitcom_dist.telemetry.progress import make_progress
from splitcom_dist.training import AdapterOptimizer
from splitcom_dist.world import World

Role = ClientRole | ServerRole | AggregatorRole


@dataclass(frozen=True)
class Share:
    """What a rank holds before it knows the schedule: its part of the model, and its samples."""

    model: PreTrainedModel
    shards: dict[int, list[Sample]] = field(default_factory=dict)
    validation: list[Sample] = field(default_factory=list)

    @property
    def shard_sizes(self) -> dict[int, int]:
        return {client: len(samples) for client, samples in self.shards.items()}


def load_share(config: Config, world: World, source: ModelSource) -> Share:
    """Load this rank's data and materialise its part of the model, with fresh adapters."""
    role, cut = world.layout.role_of(world.rank), config.model.cut_layer
    if role == "client":
        clients = world.layout.clients_of(world.rank)
        shards = training_shards(config, source.tokenizer(), clients)
        return Share(_load(config, source, head(cut)), shards=shards)
    if role == "server":
        return Share(_load(config, source, body(cut, source.block_count)))
    validation = validation_samples(config, source.tokenizer())
    return Share(_load(config, source, whole(source.block_count)), validation=validation)


def build_role(context: Context, share: Share, directory: RunDirectory) -> Role:
    """The role of this rank, ready to run."""
    role = context.world.layout.role_of(context.world.rank)
    if role == "client":
        return _client(context, share)
    if role == "server":
        return _server(context, share)
    return _aggregator(context, share, directory)


def _client(context: Context, share: Share) -> ClientRole:
    world, codec = context.world, context.config.codec
    server = world.layout.server_of(world.rank)
    edge = Edge(TorchTransport(world.edge_groups[world.rank, server], server), world.layout.name_of(server))
    parameters = list(adapter_parameters(share.model).values())
    clients = [
        LogicalClient(
            number,
            samples,
            parameters,
            AdapterOptimizer(parameters, context.config.train, context.schedule.total_steps),
            Encoder(codec.up_activation, context.width, context.dtype, seed=context.seed_of(number)),
            Decoder(codec.down_gradient, context.width, context.dtype),
            LabelSender(context.source.vocabulary),
        )
        for number, samples in share.shards.items()
    ]
    return ClientRole(context, share.model, edge, clients)


def _server(context: Context, share: Share) -> ServerRole:
    world, codec = context.world, context.config.codec
    layout = world.layout
    edges = {
        client_rank: Edge(
            TorchTransport(world.edge_groups[client_rank, server], client_rank), layout.name_of(client_rank)
        )
        for client_rank, server in layout.edges()
        if server == world.rank
    }
    clients = {
        number: ServedClient(
            edges[layout.rank_of(number)],
            Decoder(codec.up_activation, context.width, context.dtype),
            Encoder(codec.down_gradient, context.width, context.dtype, seed=context.seed_of(number)),
            LabelCache(context.source.vocabulary),
        )
        for number in range(layout.clients)
        if layout.rank_of(number) in edges
    }
    shows = context.config.telemetry.progress and world.rank == layout.server_ranks[0]
    return ServerRole(context, share.model, clients, make_progress(shows))


def _aggregator(context: Context, share: Share, directory: RunDirectory) -> AggregatorRole:
    head_parameters: list[nn.Parameter] = []
    body_parameters: list[nn.Parameter] = []
    for name, parameter in adapter_parameters(share.model).items():
        in_head = is_in_head(name, context.source.config.model_type, context.config.model.cut_layer)
        (head_parameters if in_head else body_parameters).append(parameter)
    parts = WholeModel(share.model, head_parameters, body_parameters)
    return AggregatorRole(context, parts, share.validation, directory.metrics)


def _load(config: Config, source: ModelSource, part: Part) -> PreTrainedModel:
    model = load_part(source, part, getattr(torch, config.model.dtype))
    return attach_lora(model, config.lora, config.train.seed)
