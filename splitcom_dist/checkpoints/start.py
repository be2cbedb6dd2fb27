"""Where a run begins: in a directory of its own, or behind the newest whole checkpoint of the one that is there."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config, all_keys, lookup
from splitcom_dist.errors import UserError
from splitcom_dist.run_directory import RunDirectory, create, default_root, is_unused
from splitcom_dist.world import World

# keys that may differ from the run's first launch, but for those that are bound
FREE = ("runtime", "checkpoint", "telemetry", "transport", "resume")
BOUND = ("telemetry.sketch",)  # the shape of a table that is there
WAS_THERE = "the run there was made with {key}={old}, not {new}: resume it with that, or choose another --out"


@dataclass(frozen=True)
class Start:
    """`step` is the one that the checkpoint was made after, None for a new run."""

    directory: RunDirectory
    step: int | None = None
    finished: bool = False
    missing: tuple[int, ...] = ()  # ranks that were lost when the checkpoint was made


def agree_on_start(config: Config, world: World, out: Path | None) -> Start:
    """Rank 0 finds or makes the directory, so that one rank tells what is wrong with it; the others are told."""
    if world.rank == 0 and not world.comes_back:
        start = find_start(config, out, world.layout.world_size)
        for rank in start.missing:
            world.membership.lose(rank, 0)
        told = {"root": str(start.directory.root), "step": start.step, "finished": start.finished}
        world.announce("start", json.dumps(told | {"missing": start.missing}))
        return start
    told = json.loads(world.wait_for("start", [0], "the run directory"))
    return Start(RunDirectory(Path(told["root"])), told["step"], told["finished"], tuple(told["missing"]))


def find_start(config: Config, out: Path | None, world_size: int) -> Start:
    """Make the run directory, or with resume=auto prepare the one that is there to go on.

    Raises UserError if it cannot: it is there and resume is `never`, it is no run, or one of another configuration.
    """
    if config.resume == "auto" and out is None:
        raise UserError("resume=auto: --out must name the run directory")
    root = (out or default_root(config)).absolute()
    if config.resume == "never" or is_unused(root):
        return Start(create(root, config))
    directory = RunDirectory(root)
    check_same_run(config, root / "config.yaml")
    if directory.summary.is_file():
        return Start(directory, finished=True)
    folder = CheckpointFolder(directory.checkpoints, config.checkpoint.keep)
    step, amiss = folder.newest(world_size)
    for line in amiss:
        print(f"warning: {root}: {line}", file=sys.stderr, flush=True)
    directory.forget_references()
    if step is None:
        shutil.rmtree(directory.telemetry)
        directory.telemetry.mkdir()
    _cut(directory.metrics, -2 if step is None else step)
    return Start(directory, step, missing=() if step is None else folder.missing(step))


def check_same_run(config: Config, stored: Path) -> None:
    """Raise UserError naming the first key that the run in `stored` had otherwise."""
    if not stored.is_file():
        raise UserError(f"{stored.parent}: no run that could go on: it has no config.yaml; choose another --out")
    before = load_config([stored])
    for key in all_keys(Config()):
        if (key in BOUND or key.partition(".")[0] not in FREE) and lookup(before, key) != lookup(config, key):
            old, new = lookup(before, key), lookup(config, key)
            if not hasattr(old, "__dataclass_fields__"):
                raise UserError(f"{stored.parent}: {WAS_THERE.format(key=key, old=old, new=new)}")


def _cut(metrics: Path, step: int) -> None:
    """Drop the lines of steps that are done again."""
    if metrics.is_file():
        lines = [line for line in metrics.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
        part = metrics.with_suffix(".part")
        part.write_text("".join(lines))
        part.replace(metrics)
