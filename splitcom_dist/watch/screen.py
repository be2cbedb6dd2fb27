"""One frame of `splitcom watch`: what the picture of a run looks like on a terminal of at least 80 columns."""

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from splitcom_dist.links import LINKS
from splitcom_dist.telemetry.summary import change, megabytes
from splitcom_dist.watch.picture import Picture

BARS = "▁▂▃▄▅▆▇█"
CURVE_POINTS, PERPLEXITIES, EVENTS, RANKS = 40, 4, 4, 24  # at most, in a frame
COLOURS = {"alive": "green", "finished": "green", "waiting": "dim", "stopped": "yellow", "lost": "red"}


def frame(picture: Picture, now: float) -> RenderableType:
    """`now` in s since 1970-01-01 UTC."""
    parts = [_head(picture), _quality(picture), Text(), _bytes(picture)]
    parts += [Text(), _thresholds(picture)] if picture.thresholds else []
    parts += [Text(), _ranks(picture, now)]
    parts += [Text(), *_events(picture, now)] if picture.events else []
    return Group(*parts)


def line(picture: Picture) -> str:
    """The same in a line, for output that is no terminal."""
    total = picture.total_steps
    parts = [f"step {picture.step + 1}/{total or '?'}", f"epoch {max(0, picture.epoch) + 1}/{_epochs(picture)}"]
    parts += [f"loss {_loss(picture):.3f}"] if picture.losses else []
    parts += [f"perplexity {picture.evals[-1][2]:.2f}"] if picture.evals else []
    links, others = picture.traffic()
    wire = sum(counts["wire_bytes"] for counts in links.values()) + others["adapter_bytes"] + others["control_bytes"]
    padded = sum(counts["raw_padded_bytes"] for counts in links.values())
    parts += [f"{megabytes(wire)} ({change(wire, padded)} of padded)"] if padded else []
    parts += [f"{picture.tokens_per_second:,.0f} tokens/s"] if picture.tokens_per_second else []
    left = picture.seconds_left
    parts += [f"left {duration(left)}"] if left is not None and picture.ending() is None else []
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def curve(values: Sequence[float], points: int = CURVE_POINTS) -> str:
    """A line of bars: the means of so many equal stretches of the values, the smallest one lowest."""
    known = [value for value in values if math.isfinite(value)]
    count = min(points, len(known))
    edges = [len(known) * index // count for index in range(count + 1)] if count else []
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _head(picture: Picture) -> RenderableType:
    config, total, left = picture.config, picture.total_steps, picture.seconds_left
    title = f"{config.data.name} · {config.model.name} · codec {config.codec.name} · {picture.layout.clients} clients"
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    speed = f"{picture.tokens_per_second:,.0f} tokens/s" if picture.tokens_per_second else ""
    state = picture.ending()
    rest = state or (f"left {duration(left)}" if left is not None else "")
    row.add_row(
        f"step {picture.step + 1}/{total or '?'}  epoch {max(0, picture.epoch) + 1}/{_epochs(picture)}",
        ProgressBar(total=total or 1, completed=picture.step + 1),
        f"{speed}  {rest}".strip(),
    )
    return Group(Text(title, "bold"), row)


def _quality(picture: Picture) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    if picture.losses:
        text.append(f"loss {_loss(picture):.3f} ").append(curve(picture.losses), "cyan").append("\n")
    ppls = [f"{ppl:.2f}" for _, _, ppl in picture.evals]
    shown = ppls if len(ppls) <= PERPLEXITIES else [ppls[0], "..", *ppls[1 - PERPLEXITIES :]]
    text.append("perplexity ").append(" → ".join(shown) or "not evaluated yet", "bold green" if shown else "dim")
    return text


def _bytes(picture: Picture) -> RenderableType:
    links, others = picture.traffic()
    used = {name: counts for name, counts in links.items() if counts["raw_padded_bytes"]}
    if not used:
        return Text("bytes: none yet, or of logs that keep no totals (before schema version 5)", "dim")
    dtype = {"float16": "FP16", "float32": "FP32"}[picture.config.telemetry.baseline_dtype]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("bytes", "wire", f"padded {dtype}", "", f"real {dtype}", ""):
        table.add_column(header, justify="left" if header == "bytes" else "right", no_wrap=True)
    for name, counts in used.items():
        table.add_row(name, *_against(counts["wire_bytes"], counts))
        frames = {key: counts[key] for key in "IPSC" if counts[key]}
        shares = " ".join(f"{key} {100 * count / sum(frames.values()):.1f}" for key, count in frames.items())
        table.add_row(Text(f"  {shares} %" if shares else "", "dim"))
    table.add_row("adapters", megabytes(others["adapter_bytes"]))
    totals = {key: sum(counts[key] for counts in used.values()) for key in ("raw_padded_bytes", "raw_real_bytes")}
    wire = sum(counts["wire_bytes"] for counts in used.values()) + others["adapter_bytes"] + others["control_bytes"]
    table.add_row("total", *_against(wire, totals), style="bold")
    return table


def _against(wire: int, counts: dict[str, int]) -> list[str]:
    padded, real = counts["raw_padded_bytes"], counts["raw_real_bytes"]
    return [megabytes(wire), megabytes(padded), change(wire, padded), megabytes(real), change(wire, real)]


def _thresholds(picture: Picture) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("threshold", "θ", "controller", "because"):
        table.add_column(header, justify="right" if header == "θ" else "left", no_wrap=header != "because")
    for link, (theta, controller, reason) in sorted(picture.thresholds.items()):
        table.add_row(LINKS[link], f"{theta:.4f}", controller, reason)
    return table


def _ranks(picture: Picture, now: float) -> RenderableType:
    states = [picture.state_of(rank, now) for rank in range(len(picture.ranks))]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("ranks", "state", "step", "last sign"):
        table.add_column(header, justify="left" if header in ("ranks", "state") else "right", no_wrap=True)
    order = sorted(range(len(states)), key=lambda rank: (states[rank] in ("alive", "finished"), rank))
    for rank in sorted(order[:RANKS]):
        seen, step = picture.tails[rank].seen, picture.ranks[rank].step
        table.add_row(
            picture.ranks[rank].name,
            Text(states[rank], COLOURS.get(states[rank], "yellow")),
            str(step + 1) if step >= 0 else "-",
            f"{duration(now - seen)} ago" if seen else "-",
        )
    if hidden := order[RANKS:]:
        table.add_row(Text(f"and {len(hidden)} more that are {' or '.join({states[rank] for rank in hidden})}", "dim"))
    return table


def _events(picture: Picture, now: float) -> list[Text]:
    return [
        Text(f"{duration(now - at)} ago  step {step}  {kind}: {text}", "dim", no_wrap=True, overflow="ellipsis")
        for at, step, kind, text in picture.events[-EVENTS:]
    ]


def _loss(picture: Picture) -> float:
    known = [loss for loss in picture.losses[-10:] if math.isfinite(loss)]
    return sum(known) / len(known) if known else math.nan


def _epochs(picture: Picture) -> int:
    return picture.config.train.epochs
