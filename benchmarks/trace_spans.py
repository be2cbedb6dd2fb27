"""An extension that has torch.profiler watch some steps of client and server, with the parts of a step as named spans.

trace.py names it in `extensions`, so that it runs in every rank.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from splitcom_dist.checkpoints.course import Course
from splitcom_dist.comm import link, outbox
from splitcom_dist.roles.body import WholeBody
from splitcom_dist.roles.client import ClientRole
from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.state import Stateful
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.training import AdapterOptimizer

FOLDER = "SPLITCOM_TRACES"  # the variable that names where a rank puts its trace
ROLES = {0: "client", 1: "server"}  # by rank, of a run with one of each
FIRST, STEPS = 6, 2  # what is watched
PREFIX = "splitcom: "
SPANS: dict[str, tuple[Any, str]] = {  # by name, the function that it is
    "turn of a client": (ClientRole, "train"),
    "step of a server": (ServerRole, "step"),
    "batch": (ClientRole, "micro_batches"),
    "head forward": (ClientRole, "forward_head"),
    "head backward": (ClientRole, "backward"),
    "body": (WholeBody, "forward_backward"),
    "optimizer": (AdapterOptimizer, "step_on_mean"),
    "encode, pack, send": (Outgoing, "_send"),
    "pack": (outbox, "in_messages"),
    "pack and send": (outbox.Outbox, "send"),
    "wait, receive, check": (link.Edge, "receive"),
    "check of a body": (link, "parse_body"),
    "decode": (Incoming, "decode"),
    "log": (RankLog, "append"),
}


def watch(folder: Path) -> None:
    """Profile some steps of this rank's run, if it is one of those looked at."""
    original = Course.steps
    for name, (owner, function) in SPANS.items():
        setattr(owner, function, _spanned(name, getattr(owner, function)))

    def steps(self: Course, role: Stateful) -> Iterator[int]:
        profiler, looks = profile(activities=[ProfilerActivity.CPU]), self.world.rank in ROLES
        for step in original(self, role):
            if looks and step == FIRST:
                profiler.start()
            if looks and step == FIRST + STEPS:
                profiler.stop()
                profiler.export_chrome_trace(str(folder / f"{ROLES[self.world.rank]}.json"))
            yield step

    Course.steps = steps  # type: ignore[method-assign]


def _spanned(name: str, function: Any) -> Any:
    @functools.wraps(function)
    def inside(*arguments: Any, **named: Any) -> Any:
        with record_function(PREFIX + name):
            return function(*arguments, **named)

    return inside


if FOLDER in os.environ:
    watch(Path(os.environ[FOLDER]))
