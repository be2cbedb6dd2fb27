"""One rank from start to end: join, agree, build the role, run it, settle the books, leave."""

import logging
import sys
from pathlib import Path

import torch

from splitcom_dist.checkpoints.course import Course
from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.checkpoints.signals import INTERRUPTED, RESUME_ME, StopSignals
from splitcom_dist.checkpoints.start import agree_on_start
from splitcom_dist.config.files import to_yaml
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import client_cuts
from splitcom_dist.devices import device_for, sharing, take
from splitcom_dist.errors import PeerLost, RunOver, SplitcomError, Stopped, UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import check_cuts
from splitcom_dist.place import Place
from splitcom_dist.presence.fate import end_by_fate
from splitcom_dist.presence.pulse import Fate
from splitcom_dist.roles.build import build_role
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.share import load_share
from splitcom_dist.run_directory import log_to
from splitcom_dist.schedule import Schedule, schedule_for
from splitcom_dist.settle import settle
from splitcom_dist.shards import check_length
from splitcom_dist.state import Stateful, read_facts
from splitcom_dist.telemetry.hdf5 import RankLog, read_kept
from splitcom_dist.telemetry.ledger import Ledger
from splitcom_dist.threads import prepare_computing
from splitcom_dist.watch.beside import writing_beside
from splitcom_dist.world import World

log = logging.getLogger(__name__)


def run_rank(config: Config, place: Place, out: Path | None) -> int:
    """Run this process's share of the job; returns its exit code: 0, 2 for a reported mistake, 1 for a bug here, 75
    if it was asked to stop and can be resumed, 130 after Ctrl-C.

    Of all ranks that fail, one prints one line; the details are in every rank's log.
    """
    signals = StopSignals()
    signals.listen()
    logging.getLogger().handlers[:] = [logging.NullHandler()]  # until the run directory has a place for logs
    try:
        layout = layout_for(config, place.world_size)
        tolerant = config.fed.lost == "go_on"
        world = World(place, layout, config.runtime.timeout_seconds, config.transport, config.runtime.link, tolerant)
    except SplitcomError as error:  # every rank meets the same mistake
        if place.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        _run(config, world, out, signals)
        world.leave()
        return 0
    except Stopped as stopped:
        signals.ignore()
        return _stop(stopped, world)
    except RunOver as over:
        return over.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        lost = isinstance(error, PeerLost)
        log.exception("this rank %s", "lost a peer" if lost else "failed")
        if signals.interrupted:  # as the peer was; or what was cut short raised this instead
            return INTERRUPTED
        if lost and tolerant and place.rank in layout.client_ranks and not world.has_failed():
            end_by_fate(world, config.fed.returns, Fate.LOST, [])
        return _report(error, world)


def _stop(stopped: Stopped, world: World) -> int:
    """All ranks have saved their state and leave together."""
    if world.rank == world.layout.aggregator_rank:
        print(f"{stopped}: the same command with resume=auto goes on from there", flush=True)
    world.leave(RESUME_ME)
    return RESUME_ME


def _report(error: Exception, world: World) -> int:
    expected = isinstance(error, SplitcomError)
    line: str | None = " ".join(str(error).split())
    if isinstance(error, PeerLost):
        line = world.explain(error)
    elif not expected:
        line = f"{world.layout.name_of(world.rank)}: {type(error).__name__}: {line}; the log has the details"
    if line is not None and world.report_failure():
        print(f"error: {line}", file=sys.stderr, flush=True)
    return 2 if expected else 1


def _run(config: Config, world: World, out: Path | None, signals: StopSignals) -> None:
    prepare_computing(config.runtime.threads, world.place, world.layout)
    torch.manual_seed(config.train.seed + world.rank)  # dropout differs between ranks
    device = device_for(config.runtime.device, world.place.local_rank)
    if config.roles.server_shards > 1 and device.type != "cpu":
        raise UserError("roles.server_shards: weights are shared in host memory so far; set runtime.device=cpu")
    take(device)
    if config.transport == "nccl":
        world.connect_devices(device)
    start = agree_on_start(config, world, out)
    directory = start.directory
    if start.finished:
        if world.rank == 0:
            print(f"{directory.root}: this run is finished")
        return
    log_to(directory.rank_log(world.rank))
    curves = writing_beside(config.telemetry.writers if world.rank == world.layout.aggregator_rank else (), directory)
    if world.tolerant:
        if world.rank in start.missing and not world.comes_back:
            world.enter_again()
        world.live(lambda fate, silent: end_by_fate(world, config.fed.returns, fate, silent))
    log.info(
        "%s of %d, started by %s",
        world.layout.name_of(world.rank),
        world.layout.world_size,
        world.place.launcher,
    )
    others = sharing(device, world.place.local_rank, world.place.local_world_size)
    log.info("computes on %s%s", device, f", as local ranks {others} do" if others else "")
    source = find_model(config.model.name, config.model.dropout)
    check_cuts(config, source.block_count)
    check_length(config, source)
    share = load_share(config, world, source, device)
    schedule = _agree_on_schedule(config, world, share.shard_sizes)
    role = world.layout.role_of(world.rank)
    folder = CheckpointFolder(directory.checkpoints, config.checkpoint.keep)
    saved = None if start.step is None or world.comes_back else folder.read(start.step, world.rank)
    path = directory.rank_telemetry(world.rank)
    counts, totals = read_kept(path) if world.comes_back else (None, None)
    if saved is not None:
        counts = read_facts(saved["course"])["rows"]
    books = RankLog(
        path, rank=world.rank, role=role, config=to_yaml(config), sketch=config.telemetry.sketch, kept=counts
    )
    with books:
        row_bytes = source.hidden_size * getattr(torch, config.telemetry.baseline_dtype).itemsize
        ledger = Ledger(books, schedule, config.data.max_length, row_bytes)
        cuts = client_cuts(config)
        memory: dict[str, Stateful] = {"ledger": ledger, "attendance": schedule.attendance, "cuts": cuts}
        course = Course(schedule, world, books, memory, folder, config.checkpoint.every, signals)
        context = Context(config, world, schedule, source, books, ledger, course, cuts, device)
        running = build_role(context, share, directory)
        if totals is not None:
            assert isinstance(running, ClientRole)
            ledger.go_on_from(torch.from_numpy(totals))
            running.come_back()
        elif saved is not None and start.step is not None:
            course.resume(start.step, saved, running)
        log.info("steps %d to %d, shards of %s samples", course.first, schedule.total_steps - 1, schedule.shard_sizes)
        running.run()
        seconds = course.seconds
    settle(context, running, directory, seconds)
    if world.rank == world.layout.aggregator_rank:
        directory.forget_references()
        curves.wait()


def _agree_on_schedule(config: Config, world: World, mine: dict[int, int]) -> Schedule:
    """Shard sizes are known where the data is; their sum over ranks tells them to all.

    A rank that was lost when the run was saved counts as lost until it is taken back, but it is here and has its data.
    """
    sizes = torch.zeros(config.fed.clients, dtype=torch.int64)
    for client, size in mine.items():
        sizes[client] = size
    sizes = world.sum_over_ranks("shards", sizes, without=world.silent)
    return schedule_for(config, world.layout, tuple(sizes.tolist()))
