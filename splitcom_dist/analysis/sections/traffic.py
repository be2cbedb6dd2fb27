"""Bytes by link and epoch, stacked by frame kind, the positions behind them, and all runs side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.palette import GREY, INK, KINDS, LINKS, PURPLE, SURFACE, tip, whole_numbers
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.study import Study
from splitcom_dist.links import LINK_CODES

MB = 1e6
NAMES = {"I": "I, sent whole", "P": "P, a change", "S": "S, not sent", "C": "C, not finite", "label": "labels"}
NAMES |= {"other": "packets of no position"}


def traffic(studies: Sequence[Study]) -> Section | None:
    """None where nothing has crossed yet."""
    studies = [study for study in studies if study.totals.links]
    if not studies:
        return None
    items = [_side_by_side(studies)] if len(studies) > 1 else []
    return Section("bytes", "Bytes on the links", items=[*items, *map(_by_epoch, studies)])


def _by_epoch(study: Study) -> Figure:
    parts, counts = study.traffic.apportioned(), study.traffic.by("link", "epoch")
    links = sorted(set(parts["link"].tolist()))

    def draw(canvas: Any) -> None:
        panels = canvas.subplots(2, len(links), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 2))
        used: dict[str, Any] = {}
        for column, link in enumerate(links):
            of = parts["link"] == link
            epochs = parts["epoch"][of] + 1
            used |= _stack(panels[0, column], epochs, {kind: parts[kind][of] / MB for kind in KINDS}, "MB")
            shares = {kind: counts[f"n_{kind}"][of] / 1e3 for kind in "IPSC"}
            used |= _stack(panels[1, column], epochs, shares, "thousand positions")
            panels[0, column].set(title=link_name(link), ylabel="" if column else "wire bytes (MB)")
            panels[1, column].set(xlabel="epoch", ylabel="" if column else "positions (1000)")
            whole_numbers(panels[1, column].xaxis)
        order = [kind for kind in KINDS if kind in used]
        canvas.legend(
            [used[kind] for kind in order], [NAMES[kind] for kind in order], loc="outside upper left", ncols=6
        )

    columns = [Column("link"), Column("epoch"), Column("wire", "byte"), Column("labels", "byte")]
    columns += [Column(NAMES[kind], "byte, est.", 0) for kind in ("I", "P", "S", "C", "other")]
    columns += [Column(kind, "positions") for kind in "IPSC"]
    rows: list[list[Value]] = []
    for row in range(len(parts["link"])):
        told: list[Value] = [link_name(int(parts["link"][row])), int(parts["epoch"][row]) + 1]
        told += [int(parts["wire"][row]), int(parts["label"][row])]
        told += [float(parts[kind][row]) for kind in ("I", "P", "S", "C", "other")]
        rows.append([*told, *(int(counts[f"n_{kind}"][row]) for kind in "IPSC")])
    missed = ", ".join(f"{link_name(link)} {100 * study.traffic.missed(link):.1f} %" for link in links)
    caption = (
        "Above: bytes on the wire; heights of bars and labels are counted. A packet is one piece, so its split by "
        "frame kind is an estimate: bytes a position, fitted by least squares to the packets of a link and epoch and "
        f"scaled to their sum (the fit misses a packet by {missed}, root of mean squares); headers and masks are in "
        "it, which is what S costs. Below: token positions of each kind, counted."
    )
    name = f"bytes-{study.run.slug}"
    data = Table(f"{name}-data", "Bytes by link and epoch", columns, rows)
    return Figure(name, f"{study.run.name}: bytes by link, epoch and frame kind", caption, draw, (10, 4.6), data)


def _stack(axes: Any, epochs: np.ndarray, parts: dict[str, np.ndarray], unit: str) -> dict[str, Any]:
    bottom, used = np.zeros(len(epochs)), {}
    for kind, heights in parts.items():
        if not heights.any():
            continue
        bars = axes.bar(epochs, heights, 0.8, bottom=bottom, color=KINDS[kind], edgecolor=SURFACE, linewidth=0.6)
        for bar, epoch, height in zip(bars, epochs.tolist(), heights.tolist(), strict=True):
            tip(bar, f"epoch {epoch}, {NAMES[kind]}: {height:,.3f} {unit}")
        used[kind] = bars[0]
        bottom = bottom + heights
    axes.grid(axis="x", visible=False)
    return used


def _side_by_side(studies: Sequence[Study]) -> Figure:
    names = [link for link in LINK_CODES if any(link in study.totals.links for study in studies)]

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        left, rows = np.zeros(len(studies)), np.arange(len(studies))
        for name in [*names, "adapters", "reports and verdicts"]:
            widths = np.array([_size(study, name) / MB for study in studies])
            colour = LINKS[LINK_CODES[name]] if name in LINK_CODES else {"adapters": PURPLE}.get(name, GREY)
            bars = axes.barh(rows, widths, 0.6, left=left, color=colour, edgecolor=SURFACE, linewidth=0.6)
            bars.set_label(name.replace("_", " "))
            for bar, study, width in zip(bars, studies, widths.tolist(), strict=True):
                tip(bar, f"{study.run.name}, {name}: {width:,.3f} MB")
            left = left + widths
        real = [study.totals.baseline("raw_real_bytes") / MB for study in studies]
        axes.plot(real, rows, "|", ms=18, mew=2, color=INK, label="raw, real tokens")
        axes.set_yticks(rows, [study.run.name for study in studies])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="bytes of the whole run (MB)")
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=6)

    caption = (
        "All bytes of each run by link, with adapters, reports and verdicts; the upright mark is what activations "
        "and gradients alone would have been uncompressed, without padding."
    )
    return Figure("bytes-runs", "Bytes of all runs", caption, draw, (10, 1.4 + 0.42 * len(studies)))


def _size(study: Study, name: str) -> int:
    if name not in LINK_CODES:
        return study.totals.others["adapter_bytes" if name == "adapters" else "control_bytes"]
    return study.totals.links.get(name, {}).get("wire_bytes", 0)
