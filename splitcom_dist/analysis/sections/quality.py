"""Perplexity against the bytes that had crossed when it was measured, and against epochs, of all runs."""

from collections.abc import Sequence
from typing import Any

from splitcom_dist.analysis.palette import GREY, MARKERS, SERIES, tip
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
    return [
        (int(epoch), int(step), float(ppl), *map(float, size))
        for epoch, step, ppl, size in zip(found["epoch"], found["step"], found["ppl"], until, strict=True)
    ]


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
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain)
        axes.set(xlabel="bytes so far (MB, logarithmic)", ylabel="perplexity, held-out text")
        _legend(canvas, axes)

    columns = [Column("run"), Column("epoch"), Column("step"), Column("perplexity", digits=2)]
    columns += [Column(name, "MB", 3) for name in ("wire so far", "raw padded so far", "raw real so far")]
    rows: list[list[Value]] = []
    for study in studies:
        rows += [[study.run.name, point[0] + 1, *point[1:]] for point in _points(study)]
    missing = ", ".join(_uncounted(study) for study in studies if study.totals.wire_bytes)
    caption = (
        "Each marker is an evaluation: further left is cheaper, lower is better. Solid: all bytes on the wire up to "
        "that step; dotted, same colour: what activations and gradients alone would have been uncompressed and "
        "without padding at the same step. The value before training, at no bytes, is in the table. Adapters "
        f"copied for evaluation, reports and verdicts are counted for the whole run only and left out ({missing})."
    )
    data = Table("quality-bytes-data", "Quality against bytes", columns, rows)
    return Figure("quality-bytes", "Perplexity against bytes", caption, draw, (9, 4), data)


def _uncounted(study: Study) -> str:
    logged = sum(counts["wire_bytes"] for counts in study.totals.links.values()) + study.traffic.adapter_bytes
    share = 100 * (1 - logged / study.totals.wire_bytes)
    return f"{share:.1f} % of {study.run.name}"


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
        axes.set(xlabel="steps trained", ylabel="perplexity, held-out text")
        axes.margins(x=0.02)
        _legend(canvas, axes)

    caption = (
        "The same evaluations against steps: where two curves lie on each other, compression costs no quality at "
        "equal work."
    )
    return Figure("quality-steps", "Perplexity against steps", caption, draw, (9, 3.2))


def plain(value: float, _: object) -> str:
    """Numbers on a logarithmic axis as people write them."""
    return f"{value:g}"


def _legend(canvas: Any, axes: Any) -> None:
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
