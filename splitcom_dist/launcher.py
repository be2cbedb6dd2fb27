"""Start every rank of a run on this machine, as processes forked from one that has imported everything."""

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed as dist

from splitcom_dist.checkpoints.signals import ASKING
from splitcom_dist.config import Config
from splitcom_dist.ending import end_process
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.models.sources import warm_up
from splitcom_dist.place import Place
from splitcom_dist.runner import run_rank
from splitcom_dist.world import PATIENCE_SECONDS

GRACE_SECONDS = 15.0  # at most: what the others get to notice and leave by themselves once one rank has failed
PR_SET_PDEATHSIG = 1


def launch(config: Config, out: Path | None) -> int:
    """Run all ranks and return the job's exit code. No child outlives this call, or this process."""
    layout = layout_for(config)
    size = layout.world_size
    warm_up(config.model.name)
    listener = socket.create_server(("127.0.0.1", 0))  # bound before anyone forks: no race for a free port
    port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_rank, args=(config, Place(rank, size, "splitcom", rank, size), port, out))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    # This process, which does not compute, keeps the store: no rank's end takes it from the others.
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    for number in ASKING:
        signal.signal(number, lambda number, frame: _pass_on(number, ranks))
    try:
        _wait(ranks, min(GRACE_SECONDS, config.runtime.timeout_seconds + 2 * PATIENCE_SECONDS))
    finally:
        _reap(ranks)
    return _verdict(ranks, layout, store)


def _rank(config: Config, place: Place, port: int, out: Path | None) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed parent takes its ranks with it
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        LOCAL_WORLD_SIZE=str(place.world_size),
        TORCHELASTIC_USE_AGENT_STORE="True",  # torch's way of saying that no rank hosts the store
        TORCHELASTIC_RESTART_COUNT="0",
    )
    try:
        end_process(run_rank(config, place, out))
    except KeyboardInterrupt:  # Ctrl-C came before the rank was up
        end_process(130)


def _wait(ranks: Sequence[BaseProcess], grace_seconds: float) -> None:
    deadline = None
    while any(process.is_alive() for process in ranks):
        if deadline is None and any(process.exitcode not in (None, 0) for process in ranks):
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _pass_on(number: int, ranks: Sequence[BaseProcess]) -> None:
    for process in ranks:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)


def _reap(ranks: Sequence[BaseProcess]) -> None:
    for stop in (BaseProcess.terminate, BaseProcess.kill):
        for process in ranks:
            if process.is_alive():
                stop(process)
        for process in ranks:
            process.join(timeout=3)


def _verdict(ranks: Sequence[BaseProcess], layout: Layout, store: dist.TCPStore) -> int:
    codes = [process.exitcode or 0 for process in ranks]
    killed = [(rank, -code) for rank, code in enumerate(codes) if code < 0]
    reported = dist.PrefixStore("splitcom/0", store).add("failures", 0) > 0
    if killed and not reported:
        rank, number = killed[0]
        print(f"error: {layout.name_of(rank)} was ended by {signal.Signals(number).name}", file=sys.stderr)
    if killed:
        return 1
    return max(codes)
