"""`splitcom profile CONFIG.yaml ... --out profile.json`: as a rank of a launch, or with all ranks on this machine; or
`splitcom profile --from RUN ...`: from the logs of runs."""

import argparse
from pathlib import Path

from splitcom_dist.config.files import files_and_overrides, load_config
from splitcom_dist.errors import UserError, needing
from splitcom_dist.layout import layout_for
from splitcom_dist.openmp import choose_spins
from splitcom_dist.place import Place
from splitcom_dist.planning.scope import check_planned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="of the run, as for `train`")
    text = "read logs instead: of a run, or of several with different codecs on the same cluster"
    parser.add_argument("--from", dest="runs", nargs="+", type=Path, metavar="RUN", help=text)
    parser.add_argument("--out", type=Path, default=Path("profile.json"), help="file (default: profile.json)")


def profile(options: argparse.Namespace, place: Place | None) -> int:
    """Measure as the arguments say; returns the exit code. Raises UserError."""
    if not options.out.resolve().parent.is_dir():
        raise UserError(f"--out {options.out}: no such folder")
    if options.runs:
        if options.settings:
            raise UserError(f"{options.settings[0]}: --from takes the settings of its runs, leave it out")
        return _from_logs(options) if place is None or place.rank == 0 else 0
    config = load_config(*files_and_overrides(options.settings))
    check_planned(config)
    choose_spins(config.roles, place)
    if place is None:
        from splitcom_dist.launcher import launch
        from splitcom_dist.profiling.run import profile_rank

        return launch(config, options.out, profile_rank)
    layout_for(config, place.world_size)
    from splitcom_dist.ending import end_process
    from splitcom_dist.profiling.run import profile_rank

    end_process(profile_rank(config, place, options.out))


def _from_logs(options: argparse.Namespace) -> int:
    with needing("plan", "splitcom profile --from"):  # imported here: torch takes seconds, a misspelt option should not
        from splitcom_dist.profiling.from_logs import profile_from_logs
    from splitcom_dist.plan.cluster import write

    found = profile_from_logs(options.runs)
    for note in found.notes:
        print(f"note: {note}")
    try:
        write(found, options.out)
    except OSError as error:
        raise UserError(f"--out {options.out}: {error.strerror}") from None
    print(f"{options.out}: {len(found.ranks)} ranks and {len(found.edges)} edges")
    return 0
