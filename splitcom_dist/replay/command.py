"""`splitcom replay RUN --gate cosine --theta 0.98,0.99 --controller bang_bang,ddpg`."""

import argparse
import json
from pathlib import Path

from splitcom_dist.config.files import files_and_overrides
from splitcom_dist.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="RUN|key=value", help="run directories; codec.* and control.* to replay with")
    add("--gate", metavar="cosine,always", help="of all links by sample (default: the run's own)")
    add("--theta", metavar="0.98,0.99/0.9,...", help="fixed thresholds, of all links or of activations/gradients")
    add("--controller", metavar="bang_bang,ddpg,...", help="asked whenever a run would have asked it")
    add("--train", type=Path, metavar="POLICY.safetensors", help="train ddpg on these logs, for control.ddpg.load")
    add("--episodes", type=int, default=50, help="replays of each run to train on (default: %(default)s)")
    add(
        "--stale-price",
        type=float,
        default=0.0,
        metavar="NATS",
        help="loss that a unit of mean squared stale error is taken to cost (default: 0, losses as logged)",
    )
    add("--json", action="store_true", help="print figures as JSON")


def replay(options: argparse.Namespace) -> int:
    """Print what other settings would have sent, and train a policy if asked to; returns 0. Raises UserError."""
    named, overrides = files_and_overrides(options.settings)
    if not named:
        raise UserError("splitcom replay: name the directory of a finished run")
    runs = [Path(name) for name in named]
    # Imported here: torch takes seconds, a misspelt option should not.
    from rich.console import Console

    from splitcom_dist.replay.policy import train_policy
    from splitcom_dist.replay.recording import open_recording
    from splitcom_dist.replay.report import as_json, compare
    from splitcom_dist.replay.settings import Choices, load_changed, names
    from splitcom_dist.replay.table import print_report
    from splitcom_dist.run_directory import save_tensors

    choices = Choices(*(names(f"--{name}", getattr(options, name)) for name in ("gate", "theta", "controller")))
    recordings = [open_recording(run) for run in runs]
    configs = [load_changed(run, overrides) for run in runs]
    settings = [choices.settings(config, options.train) for config in configs]
    if options.train is not None:
        learners = [choices.learner(config) for config in configs]
        save_tensors(options.train, train_policy(recordings, learners, options.episodes, options.stale_price))
    reports = [
        compare(recording, each, options.stale_price) for recording, each in zip(recordings, settings, strict=True)
    ]
    if options.json:
        print(json.dumps([as_json(report) for report in reports], indent=2))
        return 0
    for report in reports:
        print_report(report, Console(soft_wrap=True))
    if options.train is not None:
        print(f"{options.train}: train with control=ddpg control.ddpg.load={options.train}")
    return 0
