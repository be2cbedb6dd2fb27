"""`splitcom profile CONFIG.yaml ... --out profile.json`: as a rank of a launch, or with all ranks on this machine."""

import argparse
from pathlib import Path

from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.place import Place
from splitcom_dist.planning.scope import check_planned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="of the run, as for `train`")
    parser.add_argument("--out", type=Path, default=Path("profile.json"), help="file (default: profile.json)")


def profile(options: argparse.Namespace, place: Place | None) -> int:
    """Measure as the arguments say; returns the exit code. Raises UserError."""
    files = [setting for setting in options.settings if "=" not in setting]
    config = load_config(files, [setting for setting in options.settings if "=" in setting])
    check_planned(config)
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"--out {options.out}: no such folder")
    if place is None:
        from splitcom_dist.launcher import launch
        from splitcom_dist.profiling.run import profile_rank

        return launch(config, options.out, profile_rank)
    layout_for(config, place.world_size)
    from splitcom_dist.ending import end_process
    from splitcom_dist.profiling.run import profile_rank

    end_process(profile_rank(config, place, options.out))
