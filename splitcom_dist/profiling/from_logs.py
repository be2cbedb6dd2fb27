"""`splitcom profile --from RUN ...`: what the logs of runs say of the cluster that they ran on.

Every run had one cut, so blocks are told apart by their operations (plan/workload.py), as is forward from backward; a
client's optimizer is in its backward pass. A rank's seconds are the median of its turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitcom_dist.analysis.logs import Run, open_run
from splitcom_dist.config.files import load_config
from splitcom_dist.config.implied import head_trains
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.cluster import CodecRun, CodecSeconds, EdgeSpeed, Line, Profile, RankSpeed
from splitcom_dist.plan.ways import fit_way
from splitcom_dist.plan.workload import Adapter, Batch, Operations, part_operations
from splitcom_dist.planning.memory import held_by_role
from splitcom_dist.planning.scope import check_planned
from splitcom_dist.profiling.batch import typical_batch
from splitcom_dist.profiling.exchanges import End, Exchanges, exchanges_of, optimizer_seconds
from splitcom_dist.profiling.shares import codec_run
from splitcom_dist.schedule import schedule_for
from splitcom_dist.shards import training_shards
from splitcom_dist.telemetry.summary import read as read_summary

ALIKE = 0.05  # by so much the mean batches of runs may differ: a seed that divides the data otherwise


@dataclass(frozen=True)
class Logged:
    """One run, as far as a profile is concerned."""

    run: Run
    config: Config
    exchanges: Mapping[int, Exchanges]  # by client rank
    optimizer: float | None  # a server's, seconds a step
    resident: Sequence[int]  # by rank; none of a run that has not finished, or computed on GPUs
    codec: CodecRun

    def ends(self, layout: Layout, rank: int) -> list[End]:
        """Of a client or server rank."""
        if layout.role_of(rank) == "client":
            return [self.exchanges[rank].client]
        return [self.exchanges[client].server for client, server in layout.edges() if server == rank]


def profile_from_logs(roots: Sequence[Path]) -> Profile:
    """Of runs on one cluster that differ in codec, cut and what else a plan chooses. Raises UserError."""
    configs = [_config(root) for root in roots]
    if len({each.codec.name for each in configs}) < len(roots):
        raise UserError("--from: two of these runs have one codec; name one run of each")
    config, source = configs[0], find_model(configs[0].model.name, configs[0].model.dropout)
    batch, tokens = typical_batch(config, source)
    for root, other in zip(roots[1:], configs[1:], strict=True):
        _check_alike(root, other, roots[0], config)
        own, own_tokens = typical_batch(other, source)
        if own.samples != batch.samples or abs(own_tokens - tokens) > ALIKE * tokens:
            raise UserError(f"--from {root}: its batches are not those of {roots[0]}; name runs on the same data")
    layout = layout_for(config)
    runs = [_logged(root, own, source, layout) for root, own in zip(roots, configs, strict=True)]
    notes = [f"{each.run.name}: {note}" for each in runs for note in each.run.notes]
    edges = []
    for client, server in layout.edges():
        edge, untold = _edge(runs, client, server)
        edges.append(edge)
        notes += [f"link of {layout.name_of(client)}: packets do not tell {each}" for each in untold]
    ranks = [_speed(runs, rank, source, layout, batch) for rank in (*layout.client_ranks, *layout.server_ranks)]
    if any(speed.process_bytes is None for speed in ranks):
        notes.append("memory is known of finished runs on CPUs only")
    return Profile(
        config.model.name,
        config.model.dtype,
        batch.samples,
        batch.length,
        tokens,
        batch.targets or 0,
        ranks,
        edges,
        {each.config.codec.name: each.codec for each in runs},
        notes,
    )


def _config(root: Path) -> Config:
    if not (root / "config.yaml").is_file():
        raise UserError(f"--from {root}: no config.yaml; give the directory of a run")
    config = load_config([root / "config.yaml"])
    check_planned(config)
    if not head_trains(config):
        raise UserError(f"--from {root}: its heads do not train, and so tell nothing of their backward pass")
    return config


def _check_alike(root: Path, config: Config, first: Path, other: Config) -> None:
    """Raise UserError unless two runs can be of one cluster and one workload."""
    for group, keys in (
        ("model", ("name", "dtype")),
        ("roles", ("client_ranks", "server_ranks")),
        ("fed", ("clients",)),
    ):
        for key in keys:
            values = [getattr(getattr(each, group), key) for each in (config, other)]
            if values[0] != values[1]:
                raise UserError(
                    f"--from {root}: {group}.{key}={values[0]}, that of {first} is {values[1]}; name runs alike"
                )


def _logged(root: Path, config: Config, source: ModelSource, layout: Layout) -> Logged:
    run = open_run(root)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    summary = read_summary(root / "summary.json") if run.finished and not _on_gpus(root) else None
    return Logged(
        run,
        config,
        {client: exchanges_of(run, client, server) for client, server in layout.edges()},
        optimizer_seconds(run, layout.first_server),
        [] if summary is None else [rank.resident_bytes for rank in summary.ranks],
        codec_run(run, config, source, schedule, shards),
    )


def _on_gpus(root: Path) -> bool:
    """Whether a rank's weights lay elsewhere than in what its process held."""
    return any("computes on cuda" in path.read_text(errors="replace") for path in (root / "log").glob("rank_*.log"))


def _edge(runs: Sequence[Logged], client: int, server: int) -> tuple[EdgeSpeed, Sequence[str]]:
    """Fitted to the packets of all runs, and what they do not tell."""
    names, own = ("up_bytes", "down_bytes", "on_the_way", "found_idle"), [each.exchanges[client] for each in runs]
    try:
        way = fit_way(*(np.concatenate([getattr(each, name) for each in own]) for name in names))
    except ValueError as error:
        raise UserError(f"--from {runs[0].run.root}: of client rank {client} the logs have {error}") from None
    return EdgeSpeed(client, server, way.up, way.down, way.latency), way.untold


def _speed(runs: Sequence[Logged], rank: int, source: ModelSource, layout: Layout, batch: Batch) -> RankSpeed:
    role, blocks = layout.role_of(rank), source.block_count
    work = {each.config.codec.name: _operations(each.config, source, role, batch) for each in runs}
    turns, codecs, beside, optimizers = [], {}, [], []
    for each in runs:
        name, ends, held = each.config.codec.name, each.ends(layout, rank), each.config.model.cut_layer
        held = held if role == "client" else blocks - held
        whole = work[name][held - 1]
        turns += [end.computing / (whole.forward + whole.backward) for end in ends]
        codecs[name] = CodecSeconds(
            *(
                float(np.median(np.concatenate([getattr(end, part) for end in ends])))
                for part in ("encoding", "decoding")
            )
        )
        if role == "server" and each.optimizer is not None:
            optimizers.append(each.optimizer / held)
        if each.resident:
            beside.append(each.resident[rank] - held_by_role(each.config, source, layout, batch, role))
    pace = float(np.median(np.concatenate(turns)))  # seconds an operation
    one, two = work[runs[0].config.codec.name][:2]
    step = float(np.median(optimizers)) if optimizers else 0.0
    return RankSpeed(
        rank,
        role,
        forward=Line(pace * one.forward, pace * (two.forward - one.forward)),
        backward=Line(pace * one.backward, pace * (two.backward - one.backward)),
        optimizer=Line(step, step),
        codecs=codecs,
        process_bytes=max(beside) if beside else None,
    )


def _operations(config: Config, source: ModelSource, role: str, batch: Batch) -> list[Operations]:
    """Of a client's or a server's part with 1, 2, ... blocks."""
    shape, adapter = model_shape(source.config), Adapter(config.lora.rank, config.lora.target_modules)
    server, count = role == "server", source.block_count
    parts = [(count - blocks, count) if server else (0, blocks) for blocks in range(1, count)]
    return [part_operations(shape, adapter, batch, *part, trains=True, lm_head=server) for part in parts]
