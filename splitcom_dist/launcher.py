"""Start every rank of a run on this machine, as processes forked from one that has imported everything."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist

from splitcom_dist.board import PATIENCE_SECONDS
from splitcom_dist.checkpoints.signals import ASKING, INTERRUPTED
from splitcom_dist.children import Child, Forked, Started, end_with_parent
from splitcom_dist.config.schema import Config
from splitcom_dist.ending import end_process
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.models.sources import warm_up
from splitcom_dist.place import Place
from splitcom_dist.presence.anew import command, environment
from splitcom_dist.runner import run_rank

GRACE_SECONDS = 15.0  # at most: what the others get to notice and leave by themselves once one rank has failed
ADDRESS = "127.0.0.1"

Work = Callable[[Config, Place, Path | None], int]  # one rank's share of a job; returns its exit code


def launch(config: Config, out: Path | None, work: Work = run_rank) -> int:
    """Run all ranks and return the job's exit code. No child outlives this call, or this process."""
    layout = layout_for(config)
    size = layout.world_size
    warm_up(config.model.name)
    listener = socket.create_server((ADDRESS, 0))  # bound before anyone forks: no race for a free port
    port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    places = {rank: Place(rank, size, "splitcom", rank, size) for rank in range(size)}
    forks = {
        rank: context.Process(target=_rank, args=(config, place, port, out, work)) for rank, place in places.items()
    }
    for process in forks.values():
        process.start()
    # This process, which does not compute, keeps the store: no rank's end takes it from the others.
    store = dist.TCPStore(
        ADDRESS,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    ranks: dict[int, Child] = {rank: Forked(process) for rank, process in forks.items()}
    for number in ASKING:
        signal.signal(number, lambda number, frame: _pass_on(number, ranks))
    returns = dict.fromkeys(layout.client_ranks, config.fed.returns) if config.fed.lost == "go_on" else {}
    grace = min(GRACE_SECONDS, config.runtime.timeout_seconds + 2 * PATIENCE_SECONDS)
    try:
        _wait(ranks, grace, returns, lambda rank: Started(command(), environment(places[rank], ADDRESS, port)))
    finally:
        _reap(ranks)
    return _verdict({rank: child.code for rank, child in ranks.items() if rank not in returns}, layout, store)


def _rank(config: Config, place: Place, port: int, out: Path | None, work: Work) -> None:
    end_with_parent()
    os.environ.update(
        MASTER_ADDR=ADDRESS,
        MASTER_PORT=str(port),
        LOCAL_WORLD_SIZE=str(place.world_size),
        TORCHELASTIC_USE_AGENT_STORE="True",  # torch's way of saying that no rank hosts the store
        TORCHELASTIC_RESTART_COUNT="0",
    )
    try:
        end_process(work(config, place, out))
    except KeyboardInterrupt:  # Ctrl-C came before the rank was up
        end_process(INTERRUPTED)


def _wait(
    ranks: dict[int, Child], grace_seconds: float, returns: dict[int, int], again: Callable[[int], Child]
) -> None:
    """Until all have ended, or those without whom no run goes on, and the others had their time to leave.

    Ranks in `returns` are not among those; they are started again when a signal has ended them, so many times at most.
    """
    deadline = None
    while any(child.code is None for child in ranks.values()):
        codes = [child.code for rank, child in ranks.items() if rank not in returns]
        if deadline is None and (any(codes) or None not in codes):
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            return
        for rank, left in returns.items():
            if deadline is None and left and (ranks[rank].code or 0) < 0:
                returns[rank] -= 1
                ranks[rank] = again(rank)
        time.sleep(0.02)


def _pass_on(number: int, ranks: Mapping[int, Child]) -> None:
    for child in ranks.values():
        child.send(number)


def _reap(ranks: Mapping[int, Child]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for child in ranks.values():
            child.send(number)
        for child in ranks.values():
            child.wait(seconds=3)


def _verdict(codes: Mapping[int, int | None], layout: Layout, store: dist.TCPStore) -> int:
    killed = [(rank, -code) for rank, code in codes.items() if code is not None and code < 0]
    reported = dist.PrefixStore("splitcom/0", store).add("failures", 0) > 0
    if killed and not reported:
        rank, number = killed[0]
        print(f"error: {layout.name_of(rank)} was ended by {signal.Signals(number).name}", file=sys.stderr)
    if killed:
        return 1
    return max(code or 0 for code in codes.values())
