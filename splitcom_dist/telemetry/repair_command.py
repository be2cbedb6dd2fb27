"""`splitcom log-repair RUN|FILE...`: fresh logs from what can be read of damaged ones."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.join import join
from splitcom_dist.telemetry.repair import Repaired, repair
from splitcom_dist.telemetry.superblock import LogImage

QUIET_SECONDS = 120.0  # a log that nobody has closed, and that was written to since, may have a living writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("logs", nargs="+", type=Path, metavar="RUN|FILE", help="run directories, or rank_*.h5 of them")
    parser.add_argument("--ended", action="store_true", help="the run has ended, though its logs are fresh")


def log_repair(options: argparse.Namespace) -> int:
    """Repair what is damaged and tell of each log what is kept and what is lost.

    Returns 0, or 1 if nothing could be read of a log. Raises UserError if one is of a run that may be alive.
    """
    logs = [log for given in options.logs for log in _logs_of(given)]
    if not options.ended:
        for log in logs:
            _check_ended(log)
    done, failed = [], []
    for log in logs:
        try:
            done.append(repair(log))
        except UserError as error:
            failed.append(str(error))
    console = Console(soft_wrap=True, highlight=False)
    if any(each.broken for each in done):
        table = _table(done)
        wanted = console.measure(table, options=console.options.update(max_width=9999)).maximum
        console.width = max(console.width, wanted)  # never cut: a figure without its end says nothing
        console.print(table)
    for each in done:
        console.print(f"{each.path}: {_said(each)}")
        for line in each.lost:
            console.print(f"  lost: {line}")
    for line in failed:
        console.print(line)
    for root in {log.parent.parent for log in logs}:
        for line in _join_again(RunDirectory(root), logs):
            console.print(line)
    return 1 if failed else 0


def _logs_of(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    logs = sorted(RunDirectory(given).telemetry.glob("rank_*.h5"))
    if not logs:
        raise UserError(f"{given}: no logs: a run directory has telemetry/rank_*.h5")
    return logs


def _check_ended(log: Path) -> None:
    if not log.is_file():
        raise UserError(f"{log}: no such log")
    with LogImage(log) as image:
        open_still = not image.damaged and image.superblock.flags != 0
    age = time.time() - log.stat().st_mtime
    if open_still and age < QUIET_SECONDS:
        raise UserError(f"{log}: written to {age:.0f} s ago, so its run may be alive: wait, or say --ended")


def _table(done: Sequence[Repaired]) -> Table:
    """Rows kept, of those there were, by log and table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("rows", no_wrap=True)
    shown = [each for each in done if each.broken]
    names = [name for name in shown[0].rows if any(each.rows.get(name, (0, 0))[1] for each in shown)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in shown:
        counts = [each.rows.get(name) for name in names]
        cells = [
            "-" if count is None else str(count[0]) if count[0] == count[1] else "{} of {}".format(*count)
            for count in counts
        ]
        table.add_row(each.path.name, *cells)
    return table


def _said(each: Repaired) -> str:
    if each.broken is None:
        return "whole, nothing to repair"
    if not each.lost:
        return f"not closed by its writer; all its rows are kept, the original is {each.broken.name}"
    return f"repaired, the original is {each.broken.name}"


def _join_again(directory: RunDirectory, logs: Sequence[Path]) -> list[str]:
    """Write run.h5 anew, if the run has one, or has ended; returns what is amiss with it."""
    config = directory.root / "config.yaml"
    if not config.is_file() or not any(log.is_relative_to(directory.telemetry) for log in logs):
        return []
    joined = directory.root / "run.h5"
    part = joined.with_suffix(".part")
    lines = join(directory.telemetry, part, layout_for(load_config([config])).world_size)
    part.replace(joined)
    return [f"{joined}: joined anew", *(f"  {line}" for line in lines)]
