"""Replayed settings beside the run itself, as a table for the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from splitcom_dist.replay.gate import LinkBytes
from splitcom_dist.replay.play import Outcome
from splitcom_dist.replay.report import Report, source_of
from splitcom_dist.telemetry.summary import change, megabytes


def print_report(report: Report, console: Console) -> None:
    """One table: a row a setting, and below it one for each of its links."""
    table = Table(
        box=None, pad_edge=False, header_style="dim", title_justify="left", title=str(report.recording.logs.path)
    )
    table.add_column("setting", no_wrap=True)
    for header in ("theta", "sent", "bytes", "half to double drift", "against the run", "stale error"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_row("the run itself", "", "", megabytes(report.wire_bytes), style="bold")
    logged = report.recording.link_bytes
    for link, part in report.own.links.items():
        theta, sent = _figures(report.own, link, part)
        table.add_row(f"  {link}", theta, sent, megabytes(logged[link]), "", "", _error(part), style="dim")
    for name, outcome in report.outcomes.items():
        ends, size = report.ranges[name], outcome.wire_bytes
        span = _span(end.wire_bytes for end in ends)
        table.add_row(name, "", "", megabytes(size), span, change(size, report.wire_bytes), style="bold")
        for link, part in outcome.links.items():
            theta, sent = _figures(outcome, link, part)
            size = part.wire_bytes
            span = _span(end.links[link].wire_bytes for end in ends)
            figures = theta, sent, megabytes(size), span, change(size, logged[link]), _error(part)
            table.add_row(f"  {link}", *figures, style="dim")
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=9999)).maximum)
    console.print(table)  # never cut: a figure without its end says nothing
    for line in notes(report):
        console.print(Text(line), soft_wrap=True)


def notes(report: Report) -> Sequence[str]:
    """What the figures stand on."""
    logs = report.recording.logs
    alone = f", by {source_of(report.recording)} alone {_off(report.estimated, report)}"
    lines = [
        f"Its own thresholds, played again: {_off(report.own, report)} of the run's bytes"
        + (f"{alone}." if report.recording.is_sketched else "."),
        "Stale error: root mean square over all positions of ||now - what the other end uses|| / ||now||, quantization "
        "left out.",
        "Half to double drift: the same, had every 1 - cosine been half or twice as large. Thresholds change how far "
        "values drift, and a replay cannot know; where the two ends are far apart, it stands on an edge.",
        "Activations, gradients and losses are those of the run: quality does not respond in a replay, and controllers "
        + (
            f"met the logged losses plus {report.nats:g} nats a unit of mean squared stale error beyond the run's."
            if report.nats
            else "met the perplexities and losses that were logged."
        ),
    ]
    if not report.recording.is_sketched:
        lines.append(
            "No sketches in the logs: how near a sample came to other references than the run's own is taken from how "
            "fast it drifted; telemetry.sketch=256 logs what is needed."
        )
    if logs.resyncs:
        lines.append(f"{logs.resyncs} resyncs in the run: references it dropped there are kept in a replay.")
    return lines


def _span(sizes: Iterable[int]) -> str:
    return " to ".join(megabytes(size) for size in sorted(sizes))


def _off(outcome: Outcome, report: Report) -> str:
    return f"{100 * (outcome.wire_bytes / report.wire_bytes - 1):+.2f} %"


def _figures(outcome: Outcome, link: str, part: LinkBytes) -> tuple[str, str]:
    thetas = outcome.thetas.get(link, [])
    low, high = min(thetas, default=0.0), max(thetas, default=0.0)
    told = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return told if thetas else "-", f"{100 * part.sent / max(1, part.sent + part.skipped):.1f} %"


def _error(part: LinkBytes) -> str:
    return f"{part.stale_error:.4f}" if part.skipped else "-"
