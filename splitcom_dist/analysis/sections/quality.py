"""Perplexity against the bytes that had crossed when it was measured, and against epochs, of all runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splitcom_dist.analysis.palette import GREY, MARKERS, SERIES, logarithmic, tip, whole_numbers
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.study import Study

MB = 1e6


def quality(studies: Sequence[Study]) -> Section | None:
    """None where no run has been evaluated."""
    studies = [study for study in studies if len(study.traffic.evaluations["ppl"])]
    if not studies:
        return None
    return Section("quality", "Quality against bytes", items=[_against_bytes(studies), _over_epochs(studies)])


def _points(study: Study) -> list[tuple[int, int, float, float, float, float]]:
    """Epoch, step, perplexity, and MB so far: wire, raw padded, raw real."""
    found, until = study.traffic.evaluations, study.traffic.until_evaluations() / MB
    until[:, 0] += _without_step(study) / MB * np.arange(len(until)) / max(1, len(until) - 1)
    points = []
    for row, (wire, padded, real) in enumerate(until.tolist()):
        epoch, step, ppl = (found[name][row] for name in ("epoch", "step", "ppl"))
        points.append((int(epoch), int(step), float(ppl), wire, padded, real))
    return points


def _without_step(study: Study) -> int:
    """Bytes that are counted, but in no row: adapters sent for an evaluation, reports and verdicts."""
    links = sum(counts["wire_bytes"] for counts in study.totals.links.values())
    return study.totals.wire_bytes - links - study.traffic.adapter_bytes


def _against_bytes(studies: Sequence[Study]) -> Figure:
    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        for index, study in enumerate(studies):
            points = [point for point in _points(study) if point[3] > 0]
            colour, marker = SERIES[index % 8], MARKERS[index % 8]
            sizes, values = [point[3] for point in points], [point[2] for point in points]
            axes.plot([point[5] for point in points], values, color=colour, lw=1, ls=":", alpha=0.8)
            axes.plot(sizes, values, color=colour, label=study.run.name)
            for epoch, step, ppl, wire, _, _ in points:
                (dot,) = axes.plot(wire, ppl, marker, color=colour)
                tip(dot, f"{study.run.name}, epoch {epoch + 1}, step {step}: perplexity {ppl:.2f} after {wire:,.2f} MB")
        axes.plot([], [], color=GREY, lw=1, ls=":", label="raw, real tokens")
        sizes = [point[column] for study in studies for point in _points(study) for column in (3, 5) if point[3] > 0]
        if sizes:
            logarithmic(axes.xaxis, min(sizes), max(sizes))
        axes.set(xlabel="bytes so far (MB, logarithmic)", ylabel="perplexity, held-out text")
        _legend(canvas, axes)

    columns = [Column("run"), Column("epoch"), Column("step"), Column("perplexity", digits=2)]
    columns += [Column(name, "MB", 3) for name in ("wire so far", "raw padded so far", "raw real so far")]
    rows: list[list[Value]] = []
    for study in studies:
        rows += [[study.run.name, point[0] + 1, *point[1:]] for point in _points(study)]
    share = max(_without_step(study) / max(1, study.totals.wire_bytes) for study in studies)
    caption = (
        "Each marker is an evaluation: further left is cheaper, lower is better. Solid: all bytes on the wire up to "
        "that step; dotted, same colour: what activations and gradients alone would have been uncompressed and "
        "without padding at the same step. The value before training, at no bytes, is in the table. Adapters sent for "
        "evaluations, reports and verdicts are counted without a step and spread evenly over the evaluations (at most "
        f"{100 * share:.1f} % of a run)."
    )
    data = Table("quality-bytes-data", "Quality against bytes", columns, rows)
    return Figure("quality-bytes", "Perplexity against bytes", caption, draw, (10, 4), data)


def _over_epochs(studies: Sequence[Study]) -> Figure:
    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        for index, study in enumerate(studies):
            points = _points(study)
            colour, marker = SERIES[index % 8], MARKERS[index % 8]
            values = [point[2] for point in points]
            (line,) = axes.plot([point[1] + 1 for point in points], values, color=colour, label=study.run.name)
            line.set(marker=marker)
            tip(line, study.run.name)
        whole_numbers(axes.xaxis)
        axes.set(xlabel="steps trained", ylabel="perplexity, held-out text")
        axes.margins(x=0.02)
        _legend(canvas, axes)

    caption = (
        "The same evaluations against steps: where two curves lie on each other, compression costs no quality at "
        "equal work."
    )
    return Figure("quality-steps", "Perplexity against steps", caption, draw, (10, 3.2))


def _legend(canvas: Any, axes: Any) -> None:
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=5)
