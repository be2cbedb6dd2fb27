"""`splitcom analyze RUN...`: one report of one run or of several, and its figures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from splitcom_dist.analysis.report import Section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories: finished, running or killed"
    )
    text = "folder for report.html and figures/ (default: the run's own; of several runs, ./report)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "also write tables/: the numbers of the report, and every row about samples"
    parser.add_argument("--export", choices=("csv", "parquet"), help=text)


def analyze(options: argparse.Namespace) -> int:
    """Write report.html and figures/; returns 0. Raises UserError."""
    from splitcom_dist.analysis.contents import sections_of
    from splitcom_dist.analysis.logs import open_runs
    from splitcom_dist.analysis.sections.overview import tiles_of
    from splitcom_dist.analysis.study import study_of

    studies = [study_of(run) for run in open_runs(options.runs)]
    sections = sections_of(studies)
    notes = [f"{study.run.name}: {note}" for study in studies for note in study.run.notes]
    names = [study.run.name for study in studies]
    title = names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names[:4])}{' ...' * (len(names) > 4)}"
    out = options.out or (options.runs[0] if len(names) == 1 else Path("report"))
    count = write(out, title, sections, notes, tiles_of(studies))
    if options.export:
        from splitcom_dist.analysis.export import export

        written = export([study.run for study in studies], sections, out / "tables", options.export)
        print(f"{out / 'tables'}: {len(written)} {options.export} files")
    for note in notes:
        print(f"note: {note}")
    print(f"{out / 'report.html'}: {len(sections)} sections, {count} figures, also in {out / 'figures'}")
    return 0


def write(
    out: Path, title: str, sections: "Sequence[Section]", notes: Sequence[str], tiles: Sequence[tuple[str, str]]
) -> int:
    """Draw every figure of the sections and write the page; returns how many there are. Raises UserError."""
    from splitcom_dist.analysis.drawing import draw
    from splitcom_dist.analysis.page import page
    from splitcom_dist.analysis.report import Figure

    figures = [item for section in sections for item in section.items if isinstance(item, Figure)]
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        drawings = {figure.name: draw(figure, out / "figures") for figure in figures}
        fresh = out / "report.part"
        fresh.write_text(page(title, sections, drawings, notes, tiles), encoding="utf-8")
        fresh.replace(out / "report.html")
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; name a folder that can be written") from None
    return len(figures)
