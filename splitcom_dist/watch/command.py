"""`splitcom watch RUN`: a run in the terminal while it goes on, from its logs alone."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from splitcom_dist.errors import UserError
from splitcom_dist.watch.picture import Picture
from splitcom_dist.watch.screen import frame, line
from splitcom_dist.watch.writers import Curves, open_writers

LINE_SECONDS = 10.0  # between two lines, where standard output is no terminal
SAID = {
    "finished": "the run is finished",
    "stopped": "the run has stopped before its end: see log/, or go on with resume=auto",
    "dead": "no rank has given a sign of life for too long: the run has died",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--once", action="store_true", help="print one frame and leave")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="between two looks (default: 1)")
    parser.add_argument(
        "--write",
        default="",
        metavar="tensorboard,wandb,mlflow",
        help="also write curves for these, from the beginning of the run",
    )


def watch(options: argparse.Namespace) -> int:
    """Show the run until it ends; returns 0, or 1 if it ended before its end. Raises UserError."""
    if not options.seconds > 0:
        raise UserError(f"--seconds {options.seconds:g}: must be above 0")
    picture = Picture(options.run)
    curves = Curves(picture, open_writers([name for name in options.write.split(",") if name], picture))
    console = Console(file=sys.stdout)
    try:
        if options.once:
            _look(picture, curves)
            console.print(frame(picture, time.time()))
            return 0
        return _follow(picture, curves, console, options.seconds)
    finally:
        curves.close()


def _follow(picture: Picture, curves: Curves, console: Console, seconds: float) -> int:
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if console.is_terminal else None
    printed, evaluated = 0.0, -1
    if live:
        live.start()
    try:
        while True:
            ending = picture.ending()  # before the look: what is there when a run ends is looked at
            _look(picture, curves)
            if live:
                live.update(frame(picture, time.time()), refresh=True)
            elif ending is None and (len(picture.evals) != evaluated or time.monotonic() - printed > LINE_SECONDS):
                printed, evaluated = time.monotonic(), len(picture.evals)
                console.print(line(picture), highlight=False, soft_wrap=True)
                sys.stdout.flush()
            if ending:
                break
            time.sleep(seconds)
    finally:
        if live:
            live.stop()
    if not live:
        console.print(frame(picture, time.time()))
    console.print(SAID[ending], highlight=False, soft_wrap=True)
    return 0 if ending == "finished" else 1


def _look(picture: Picture, curves: Curves) -> None:
    picture.poll()
    curves.draw()
