"""What a finished run says of itself: summary.json, and the table on the terminal."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

COUNTS = ("raw_padded_bytes", "raw_real_bytes", "wire_bytes", "I", "P", "S", "C")
OTHERS = ("label_bytes", "adapter_bytes", "control_bytes", "tokens")  # beside the links


@dataclass(frozen=True)
class RankMemory:
    name: str  # as the layout names the rank
    weights_bytes: int  # parameters and buffers it holds, adapters included
    resident_bytes: int  # largest resident set of the process


@dataclass(frozen=True)
class Summary:
    """Bytes are those of the whole run, over all clients, counted where they were sent."""

    ppl: float
    untuned_ppl: float
    seconds: float
    tokens: int  # real positions trained on
    links: dict[str, dict[str, int]]  # by link, the counts named in COUNTS
    label_bytes: int  # part of the wire bytes of up_activation
    adapter_bytes: int
    control_bytes: int  # reports and verdicts
    baseline_dtype: str
    ranks: list[RankMemory]
    config: dict[str, Any]
    turns_left_out: int = 0  # by clients that were late (fed.straggler=deadline)

    @property
    def wire_bytes(self) -> int:
        """Everything that crossed: all links, adapters, reports and verdicts."""
        return sum(link["wire_bytes"] for link in self.links.values()) + self.adapter_bytes + self.control_bytes


def write(summary: Summary, path: Path) -> None:
    """Write summary.json."""
    links = {
        name: {key: counts[key] for key in COUNTS[:3]} | {"frames": {key: counts[key] for key in COUNTS[3:]}}
        for name, counts in summary.links.items()
    }
    values = asdict(summary) | {"links": links, "tokens_per_second": summary.tokens / summary.seconds}
    path.write_text(json.dumps(values, indent=2) + "\n")


def read(path: Path) -> Summary:
    """The Summary that `write` wrote."""
    values = json.loads(path.read_text())
    values.pop("tokens_per_second")
    values["links"] = {name: link.pop("frames") | link for name, link in values["links"].items()}
    values["ranks"] = [RankMemory(**rank) for rank in values["ranks"]]
    return Summary(**values)


def print_table(summary: Summary, title: str, console: Console | None = None) -> None:
    """The table a finished run ends with: quality, bytes against both baselines, time, memory."""
    console = console or Console()
    console.print(Group(Text(), _quality(summary, title), Text(), _traffic(summary), Text(), _memory(summary)))


def change(wire: int, baseline: int) -> str:
    """`-93.1 %` of a baseline, or `+98.0 %` where the wire carries more; a dash without a baseline."""
    return f"{100 * (wire / baseline - 1):+.1f} %" if baseline else "-"


def megabytes(count: int) -> str:
    """Decimal megabytes with three digits or so; kilobytes below a tenth of one."""
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:,.2f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"


def _quality(summary: Summary, title: str) -> Text:
    minutes, seconds = divmod(round(summary.seconds), 60)
    time = f"{minutes} min {seconds} s" if minutes else f"{summary.seconds:.1f} s"
    late = f"\n{summary.turns_left_out} turns left out by late clients" if summary.turns_left_out else ""
    return Text.assemble(
        (title, "bold"),
        "\nperplexity ",
        (f"{summary.untuned_ppl:.2f} → {summary.ppl:.2f}", "bold green"),
        f" on held-out text  ·  {time}  ·  {summary.tokens / summary.seconds:,.0f} tokens/s{late}",
    )


def _traffic(summary: Summary) -> Table:
    dtype = {"float16": "FP16", "float32": "FP32"}[summary.baseline_dtype]
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.add_column("bytes", no_wrap=True)
    for header in ("wire", f"padded {dtype}", "", f"real {dtype}", ""):
        table.add_column(header, justify="right", no_wrap=True)
    used = {name: counts for name, counts in summary.links.items() if counts["raw_padded_bytes"]}
    for name, counts in used.items():
        table.add_row(name, *_against(counts["wire_bytes"], counts))
        table.add_row(_frames(counts), style="dim")
    if summary.label_bytes:
        table.add_row(Text("  labels, in the above", "dim"), Text(megabytes(summary.label_bytes), "dim"))
    table.add_row("adapters", megabytes(summary.adapter_bytes))
    table.add_row("reports and verdicts", megabytes(summary.control_bytes))
    totals = {key: sum(counts[key] for counts in used.values()) for key in COUNTS[:3]}
    table.add_row("total", *_against(summary.wire_bytes, totals), style="bold")
    return table


def _against(wire: int, counts: dict[str, int]) -> list[str]:
    padded, real = counts["raw_padded_bytes"], counts["raw_real_bytes"]
    return [megabytes(wire), megabytes(padded), change(wire, padded), megabytes(real), change(wire, real)]


def _frames(counts: dict[str, int]) -> str:
    total = max(1, counts["I"] + counts["P"] + counts["S"] + counts["C"])
    shares = [f"{key} {100 * counts[key] / total:.1f}" for key in COUNTS[3:] if counts[key]]
    return f"  {' '.join(shares)} %" if shares else ""


def _memory(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("memory", no_wrap=True)
    table.add_column("weights held", justify="right")
    table.add_column("resident, peak", justify="right")
    for rank in summary.ranks:
        table.add_row(rank.name, megabytes(rank.weights_bytes), megabytes(rank.resident_bytes))
    return table
