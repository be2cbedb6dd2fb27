"""From configuration to a role: ties a rank's share of model and data to the links of its clients."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import nn

from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.codec.ends import make_decoder, make_encoder
from splitcom_dist.codec.labels import LabelCache, LabelSender
from splitcom_dist.codec.prefix import KeyBook, PrefixTree
from splitcom_dist.comm.layer_mean import LayerMean
from splitcom_dist.comm.link import Edge
from splitcom_dist.config.implied import keyed_links, names_samples
from splitcom_dist.cuts.work import work_of
from splitcom_dist.data.tokens import Sample
from splitcom_dist.links import is_upward
from splitcom_dist.models.lora import flatten, without
from splitcom_dist.models.merging import MergedWeights
from splitcom_dist.models.split import trained_by_clients
from splitcom_dist.presence.service import Service
from splitcom_dist.roles.aggregator import AggregatorRole, WholeModel
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.roles.logical_client import LogicalClient
from splitcom_dist.roles.mean_share import MeanShare
from splitcom_dist.roles.roster import Member, Roster
from splitcom_dist.roles.served_client import ServedClient
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.roles.shard import ShardRole
from splitcom_dist.roles.share import Share
from splitcom_dist.roles.shared_blocks import SharedBlocks
from splitcom_dist.roles.standard_server import StandardServerRole
from splitcom_dist.roles.u_client import UClientRole
from splitcom_dist.roles.u_server import UServerRole
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.count_sketch import CountSketch
from splitcom_dist.telemetry.progress import make_progress
from splitcom_dist.telemetry.sketches import SketchLog, TextFacts, unknown_text
from splitcom_dist.telemetry.text_facts import facts_of_labels, facts_of_shard
from splitcom_dist.training import AdapterOptimizer

Role = ClientRole | ServerRole | ShardRole | AggregatorRole
M = TypeVar("M", bound=Member)


def build_role(context: Context, share: Share, directory: RunDirectory) -> Role:
    """The role of this rank, ready to run."""
    role = context.world.layout.role_of(context.world.rank)
    if role == "client":
        return _client(context, share, directory)
    if role == "server":
        return _server(context, share, directory)
    if role == "shard":
        return ShardRole(context, share.parts["body"], share.adapter("body"))
    return _aggregator(context, share, directory)


def _client(context: Context, share: Share, directory: RunDirectory) -> ClientRole:
    world = context.world
    edge = _edge(context, world.rank, peer=world.layout.server_of(world.rank))
    blocks, start = share.shared_adapters(), flatten(_averaged(context, share))

    def logical_client(number: int) -> LogicalClient:
        count = len(blocks) if context.cuts.move_about else context.cuts.shared_by(number)
        trained = _averaged(context, share, blocks[:count])
        return _logical_client(context, number, share.shards[number], trained, edge, directory)

    clients = _roster(context, directory, logical_client)
    averaged = _averaged(context, share)
    ranks, merged = _ranks(context, averaged), _merged(context, share, averaged)
    mean = MeanShare(context, clients, start, ranks, _layer_mean(context, share), merged)
    by_number = dict(zip(context.cuts.shared, blocks, strict=False))  # a rank may hold the first few
    head = share.parts["head"]
    if "tail" in share.parts:
        return UClientRole(context, head, share.parts["tail"], edge, clients, mean, by_number)
    return ClientRole(context, head, edge, clients, mean, by_number)


def _averaged(
    context: Context, share: Share, blocks: Sequence[Sequence[nn.Parameter]] | None = None
) -> list[nn.Parameter]:
    """Adapters that clients average: first what no server trains, then shared blocks, all that are held or these."""
    blocks = share.shared_adapters() if blocks is None else blocks
    alone = [parameter for part in trained_by_clients(context.config) for parameter in share.adapter(part)]
    return [*alone, *(parameter for block in blocks for parameter in block)]


def _layer_mean(context: Context, share: Share) -> LayerMean | None:
    """Averages the shared blocks; None where all cuts are equal."""
    return LayerMean(list(share.shared.values()), context.world.everyone) if share.shared else None


def _ranks(context: Context, trained: Sequence[nn.Parameter]) -> Ranks:
    return Ranks(context.config.lora.ranks, [parameter.shape for parameter in trained])


def _merged(context: Context, share: Share, trained: Sequence[nn.Parameter]) -> MergedWeights | None:
    """The weights below what clients train, which take in every average; None where adapters stay beside them."""
    if context.config.fed.rank_aggregation != "stack":
        return None
    return MergedWeights(share.parts.values(), trained, context.config.train.seed)


def _roster(context: Context, directory: RunDirectory, make: Callable[[int], M]) -> Roster[M]:
    rank = context.world.rank
    return Roster(make, context.config.fed.resident, lambda number: directory.parked(rank, number))


def _logical_client(
    context: Context,
    number: int,
    samples: Sequence[Sample],
    trained: Sequence[nn.Parameter],
    edge: Edge,
    directory: RunDirectory,
) -> LogicalClient:
    text = facts_of_shard(samples) if context.config.telemetry.sketch else unknown_text
    outgoing, incoming = _flows(context, number, edge, directory, text, sends_up=True)
    return LogicalClient(
        number,
        samples,
        trained,
        AdapterOptimizer(trained, context.config.train, context.schedule.total_steps),
        outgoing,
        incoming,
        None if context.config.model.tail_layers else LabelSender(context.source.vocabulary),
        PrefixTree(context.config.codec.prefix_sharing and bool(keyed_links(context.config)))
        if names_samples(context.config)
        else None,
    )


def _server(context: Context, share: Share, directory: RunDirectory) -> ServerRole:
    world, layout = context.world, context.world.layout
    edges = {
        client_rank: _edge(context, client_rank, peer=client_rank)
        for client_rank, server in layout.edges()
        if server == world.rank
    }

    def served(number: int) -> ServedClient:
        edge = edges[layout.rank_of(number)]
        book = KeyBook() if names_samples(context.config) else None
        labels = None if context.config.model.tail_layers else LabelCache(context.source.vocabulary)
        text = unknown_text if labels is None else facts_of_labels(labels)
        outgoing, incoming = _flows(context, number, edge, directory, text, sends_up=False)
        return ServedClient(number, edge, incoming, outgoing, book, labels)

    progress = make_progress(context.config.telemetry.progress and world.rank == layout.first_server)
    kind = UServerRole if context.config.model.tail_layers else StandardServerRole
    clients, service = _roster(context, directory, served), Service(world, edges)
    mean = _layer_mean(context, share)
    shared = None if mean is None else SharedBlocks(context.cuts, share.shared_adapters(), mean)
    return kind(context, share.parts["body"], share.adapter("body"), clients, service, progress, shared)


def _aggregator(context: Context, share: Share, directory: RunDirectory) -> AggregatorRole:
    of_clients = _averaged(context, share)
    whole = WholeModel(share.parts["whole"], of_clients, without(share.adapter("body"), of_clients))
    ranks, work = _ranks(context, of_clients), work_of(share.parts["whole"], context.config.model.tail_layers)
    shared, merged = _layer_mean(context, share), _merged(context, share, of_clients)
    return AggregatorRole(context, whole, share.validation, directory, ranks, work, shared, merged)


def _edge(context: Context, client_rank: int, peer: int) -> Edge:
    world = context.world
    transport = None if world.comes_back else world.transport(client_rank)
    devices = world.device_transport(client_rank)
    return Edge(transport, world.layout.name_of(peer), devices, context.device)


def _flows(
    context: Context,
    client: int,
    edge: Edge,
    directory: RunDirectory,
    text: TextFacts = unknown_text,
    *,
    sends_up: bool,
) -> tuple[Mapping[str, Outgoing], Mapping[str, Incoming]]:
    """This rank's ends of a client's links, by name: those it sends on, and those it receives on."""
    outgoing, incoming = {}, {}
    for link in context.links:
        codec = getattr(context.config.codec, link)
        if is_upward(link) == sends_up:
            seed = context.seed_of(client, link)
            folder = directory.references(client, link, "sent")
            encoder = make_encoder(codec, context.width, context.dtype, seed, folder, context.residence(link))
            outgoing[link] = Outgoing(context, edge, link, client, encoder, sketches=_sketches(context, text))
        else:
            folder = directory.references(client, link, "received")
            decoder = make_decoder(codec, context.width, context.dtype, folder, context.residence(link))
            incoming[link] = Incoming(context, edge, link, client, decoder)
    return outgoing, incoming


def _sketches(context: Context, text: TextFacts) -> SketchLog | None:
    """Of one sending end; None where none are logged."""
    if not context.config.telemetry.sketch:
        return None
    sketch = CountSketch(context.config.telemetry.sketch, context.width, context.config.data.max_length - 1)
    return SketchLog(context.log, sketch, context.width, text)
