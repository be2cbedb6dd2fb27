"""`splitcom doctor`: look, meet the other ranks if a launcher started some, name what is wrong."""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from splitcom_dist.errors import UserError
from splitcom_dist.place import Place, recognise

if TYPE_CHECKING:
    from splitcom_dist.comm.speed import Pair
    from splitcom_dist.doctor.sight import Sight

PRECEDENCE_SECONDS = 3.0  # rank 0 speaks first; where it is the one that is missing, the next rank does
TURN_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("--transport", choices=("gloo", "mpi"), default="gloo", help="what the pairs are measured over (default: gloo)")
    add("--timeout", type=float, default=30.0, metavar="SECONDS", help="for each wait for another rank (default: 30)")
    add("--json", action="store_true", help="print JSON, with all pairs, instead of tables")


def doctor(options: argparse.Namespace) -> int:
    """Run as the arguments say; returns 0, or 1 if something is wrong. Raises UserError for a bad argument."""
    if not options.timeout > 0:
        raise UserError(f"--timeout={options.timeout:g}: must be above 0 seconds")
    place = recognise(os.environ)
    # Imported here: torch takes seconds, a misspelt option should not.
    from splitcom_dist.doctor.sight import look
    from splitcom_dist.ending import end_process

    sight = look(place, os.environ)
    if place is None:
        return _report(sight, {0: sight}, [], [], options)
    end_process(_with_others(place, sight, options))


def _with_others(place: Place, sight: "Sight", options: argparse.Namespace) -> int:
    from splitcom_dist.doctor.consultation import Consultation

    try:
        consultation = Consultation(place, options.transport, options.timeout)
        if place.rank > 0:
            return consultation.follow(sight)
        findings = consultation.lead(sight)
    except UserError as error:
        if place.rank > 0:
            time.sleep(PRECEDENCE_SECONDS + TURN_SECONDS * place.rank)
        return _report(sight, {place.rank: sight}, [], [str(error)], options)
    code = _report(sight, findings.sights, findings.pairs, findings.problems, options)
    consultation.dismiss(code)
    return code


def _report(
    mine: "Sight",
    sights: "Mapping[int, Sight]",
    pairs: "Sequence[Pair]",
    problems: Sequence[str],
    options: argparse.Namespace,
) -> int:
    from rich.console import Console

    from splitcom_dist.doctor.problems import of_clocks, of_sights
    from splitcom_dist.doctor.tables import print_pairs, print_ranks, print_sight

    problems = [*problems, *of_sights(sights), *of_clocks(pairs)]
    if options.json:
        ranks = [asdict(sight) for _, sight in sorted(sights.items())]
        report = {"ranks": ranks, "transport": options.transport, "pairs": list(map(asdict, pairs))}
        print(json.dumps(report | {"problems": problems}, indent=2))
        return int(bool(problems))
    console = Console()
    print_sight(mine, console)
    if mine.place is not None:
        console.print()
        print_ranks(sights, console)
    if pairs:
        console.print()
        print_pairs(pairs, options.transport, console)
    console.print()
    for problem in problems:
        console.print(f"problem: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if not problems:
        console.print("all is well", style="green")
    return int(bool(problems))
