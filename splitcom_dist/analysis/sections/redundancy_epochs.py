"""Figures over epochs: how alike any two are, and in how few directions samples move."""

from typing import Any

import numpy as np

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.directions import Spectrum, along_epochs, between, distances, independent, spectrum
from splitcom_dist.analysis.palette import GREY, LINKS, tip, whole_numbers
from splitcom_dist.analysis.redundancy import Redundancy
from splitcom_dist.analysis.report import Column, Figure, Table, Value

MARKS = (1, 2, 4, 8, 16, 32, 64)  # directions of which the table tells the energy


def epoch_matrix(each: Redundancy) -> Figure:
    """1 - cosine between any two epochs of one sample, by link."""
    visits = {link: each.sketches.of(link) for link in each.links}
    found = {link: distances(those) for link, those in visits.items()}

    def draw(canvas: Any) -> None:
        from matplotlib.colors import LogNorm

        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        for axes, (link, (mean, _)) in zip(panels, found.items(), strict=True):
            epochs = visits[link].epochs + 1
            positive = mean[mean > 0]
            low, high = (positive.min(), positive.max()) if len(positive) else (1e-4, 1e-3)
            edges = (-0.5, len(epochs) - 0.5)
            image = axes.imshow(mean, norm=LogNorm(low, max(high, 1.01 * low)), cmap="viridis", origin="lower")
            axes.set(title=link_name(link), xlabel="epoch", ylabel="epoch", xlim=edges, ylim=edges)
            ticks = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 8)).round().astype(int))
            axes.set_xticks(ticks, epochs[ticks].tolist())
            axes.set_yticks(ticks, epochs[ticks].tolist())
            axes.grid(visible=False)
            canvas.colorbar(image, ax=axes, label="1 - cosine", shrink=0.8)

    columns = [Column("link"), Column("epoch"), Column("and epoch"), Column("mean", digits=6)]
    columns += [Column("90 % of samples below", digits=6)]
    rows: list[list[Value]] = []
    for link, (mean, high) in found.items():
        for one, other in zip(*np.triu_indices(len(mean), 1), strict=True):
            epochs = visits[link].epochs + 1
            rows.append(
                [link_name(link), *map(int, epochs[[one, other]]), *map(float, (mean[one, other], high[one, other]))]
            )
    some = "".join(
        f" {link_name(link)}: {len(those.values):,} samples{', a random part of them' if those.chosen else ''}."
        for link, those in visits.items()
    )
    caption = (
        "1 - cosine of a sample's whole activation (or gradient) at two epochs, mean over samples; dark is alike. "
        f"A sample's cosine c is sketched, off by about (1 - c²) / √{each.k}.{some}"
    )
    name = f"epochs-{each.run.slug}"
    data = Table(f"{name}-data", "1 - cosine between any two epochs", columns, rows)
    return Figure(name, f"{each.run.name}: any two epochs", caption, draw, (9, 3.8), data)


def directions(each: Redundancy) -> Figure:
    """Energy of changes in few directions: across samples, and along a sample's epochs."""
    found: list[tuple[int, int, Spectrum, Spectrum]] = []
    courses = {}
    for link in each.links:
        visits = each.sketches.of(link)
        courses[link] = along_epochs(visits)
        for column in range(1, len(visits.epochs)):
            changes = between(visits, column)
            changes = changes[np.isfinite(changes).all(axis=1)]
            of_changes, of_chance = spectrum(changes), spectrum(independent(changes))
            if of_changes is not None and of_chance is not None:
                found.append((link, int(visits.epochs[column]) + 1, of_changes, of_chance))

    def draw(canvas: Any) -> None:
        shares, ranks, course = canvas.subplots(1, 3)
        for link in each.links:
            mine, colour = [row for row in found if row[0] == link], LINKS[link]
            for index, (_, epoch, of_changes, of_chance) in enumerate(mine):
                last = index == len(mine) - 1
                counts = np.arange(1, len(of_changes.shares) + 1)
                label = link_name(link) if last else None
                held = 100 * of_changes.shares.cumsum()
                (line,) = shares.plot(counts, held, color=colour, alpha=1 if last else 0.35, label=label)
                tip(line, f"{link_name(link)}, epoch {epoch}: effective rank {of_changes.effective_rank:.1f}")
                if last:
                    shares.plot(counts, 100 * of_chance.shares.cumsum(), color=GREY, ls=":", lw=1.2)
            epochs = [row[1] for row in mine]
            ranks.plot(epochs, [row[2].effective_rank for row in mine], color=colour, marker="o")
            ranks.plot(epochs, [row[3].effective_rank for row in mine], color=GREY, ls=":", lw=1.2)
            held = 100 * courses[link]
            course.plot(np.arange(1, len(held) + 1), held, color=colour, marker="o")
        shares.set(xscale="log", ylim=(0, 101), xlabel="directions", ylabel="energy of the change (%)")
        shares.set_title("samples of an epoch together")
        ranks.set(xlabel="epoch", ylabel="effective rank", title="samples of an epoch together")
        course.set(
            ylim=(0, 101), xlabel="directions", ylabel="energy of its changes (%)", title="one sample over epochs"
        )
        whole_numbers(ranks.xaxis)
        whole_numbers(course.xaxis)
        canvas.legend(*shares.get_legend_handles_labels(), loc="outside upper left", ncols=4)

    columns = [Column("link"), Column("epoch"), Column("effective rank", digits=2)]
    columns += [Column("independent changes", digits=2), *(Column(f"in {count}", "%", 2) for count in MARKS)]
    rows: list[list[Value]] = [
        [
            link_name(link),
            epoch,
            of_changes.effective_rank,
            of_chance.effective_rank,
            *(100 * of_changes.held(count) for count in MARKS),
        ]
        for link, epoch, of_changes, of_chance in found
    ]
    caption = (
        "Left: share of the energy of all samples' changes since the epoch before, each taken as one long vector, in "
        "their first principal directions; one line an epoch, the last one strong. Middle: exp of the entropy of those "
        "shares. Dotted: changes of the same sizes in directions that have nothing to do with each other. Right: the "
        "changes of one sample over the run, mean over samples: 100 % in one direction is a drift along a line. "
        f"Sketches of {each.k} values can show no more than {each.k} directions."
    )
    name = f"directions-{each.run.slug}"
    data = Table(f"{name}-data", "Directions of change", columns, rows)
    return Figure(name, f"{each.run.name}: directions of change", caption, draw, (9, 3.6), data)
