"""What the controller did: perplexity, thresholds, and what share of positions crossed, over the same steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.logs import text_of
from splitcom_dist.analysis.palette import INK, LINKS, tip, whole_numbers
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.study import Study


def control(studies: Sequence[Study]) -> Section | None:
    """None where no link has a threshold."""
    studies = [study for study in studies if study.course.gated]
    items: list[Figure | Table] = []
    for study in studies:
        items += [_actions(study), _decisions(study)]
    return Section("control", "Thresholds and controller", items=items) if items else None


def _actions(study: Study) -> Figure:
    course, links = study.course, study.course.gated

    def draw(canvas: Any) -> None:
        quality, theta, shares = canvas.subplots(3, 1, sharex=True)
        found = study.traffic.evaluations
        quality.plot(found["step"] + 1, found["ppl"], color=INK, marker="o")
        quality.set(ylabel="perplexity")
        counts = study.traffic.by("link", "epoch")
        last = dict(zip(found["epoch"].tolist(), (found["step"] + 1).tolist(), strict=True))
        for link in links:
            steps, thetas = course.thresholds(link)
            until = np.append(steps + 1, max(study.totals.steps, steps[-1] + 1))
            levels = np.append(thetas, thetas[-1])
            theta.step(until, levels, where="post", color=LINKS[link], label=link_name(link))
            (dots,) = theta.plot(steps + 1, thetas, "o", ms=3.5, color=LINKS[link])
            tip(dots, link_name(link))
            of = [row for row in np.flatnonzero(counts["link"] == link) if int(counts["epoch"][row]) in last]
            sent = [100 * (1 - counts["n_S"][row] / max(1, counts["tokens"][row])) for row in of]
            shares.plot([last[int(counts["epoch"][row])] for row in of], sent, color=LINKS[link], marker="o", ms=3.5)
        theta.set(ylabel="threshold θ")
        shares.set(ylabel="positions sent (%)", xlabel="steps trained", ylim=(-3, 103))
        canvas.legend(*theta.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        whole_numbers(shares.xaxis)
        canvas.align_ylabels()

    controller = text_of(course.decisions["controller"][0])
    caption = (
        f"Controller {controller}. Top: what it sees; middle: the threshold each link has from that step on; bottom: "
        "the share of positions that crossed in each epoch, drawn at its end (I, P and C; the rest is S)."
    )
    name = f"control-{study.run.slug}"
    return Figure(name, f"{study.run.name}: thresholds, quality and what was sent", caption, draw, (10, 5.4))


def _decisions(study: Study) -> Table:
    rows = study.course.decisions
    columns = [Column("step"), Column("epoch"), Column("link"), Column("θ", digits=5)]
    columns += [Column("controller"), Column("reason"), Column("taken from")]
    told: list[list[Value]] = [
        [int(step), int(epoch) + 1, link_name(int(link)), float(theta), *map(text_of, (controller, reason, state))]
        for step, epoch, link, theta, controller, reason, state in zip(*rows.values(), strict=True)
    ]
    caption = "Step -1 is before training; a threshold holds from the next step on."
    return Table(f"decisions-{study.run.slug}", f"{study.run.name}: decisions", columns, told, caption)
