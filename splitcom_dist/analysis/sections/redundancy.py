"""Redundancy between visits from logged sketches: any two epochs, directions of change, positions, clients, cuts."""

from collections.abc import Sequence

from splitcom_dist.analysis.course import link_name
from splitcom_dist.analysis.redundancy import Redundancy, redundancy_of
from splitcom_dist.analysis.report import Column, Figure, Section, Table, Value
from splitcom_dist.analysis.sections.redundancy_epochs import directions, epoch_matrix
from splitcom_dist.analysis.sections.redundancy_where import by_part, by_position
from splitcom_dist.analysis.sections.redundancy_who import by_client, by_cut
from splitcom_dist.analysis.study import Study

TEXT = (
    "From sketches that the run logged of every sample at every visit (telemetry.sketch): what the values themselves "
    "did, whatever the codec made of them. Unlike the gate, which compares with what was sent last, these figures "
    "compare a visit with the one before it or, in the first, any two epochs. "
)


def redundancy(studies: Sequence[Study]) -> Section | None:
    """None where no run has logged sketches."""
    found = [redundancy for study in studies if (redundancy := redundancy_of(study.run)) is not None]
    if not found:
        return None
    moved = [study.run.name for study in studies if any(cut.step >= 0 for cut in study.course.cuts)]
    items = [item for each in found for item in items_of(each)]
    if figure := by_cut([each for each in found if each.run.name not in moved]):
        items.append(figure)
    lengths = ", ".join(f"{each.run.name} {each.k}" for each in found)
    text = f"{TEXT}Values a sketch: {lengths}."
    if moved:
        text += f" Cuts moved in {', '.join(moved)}: two epochs of a client may be outputs of different blocks there."
    return Section("redundancy", "Redundancy between visits", text, items)


def items_of(each: Redundancy) -> list[Figure | Table]:
    """Of one run."""
    compared = bool(each.drift["rel_l2"].groups("link"))
    figures = (epoch_matrix, directions, by_part, by_position, by_client) if compared else ()
    shared = [prefixes(each)] if len(each.prefix()["client"]) else []
    return [*(figure(each) for figure in figures), energies(each), *shared]


def energies(each: Redundancy) -> Table:
    """Where the energy is, by link and epoch."""
    table = each.energy()
    columns = [Column("link"), Column("epoch"), Column("first position", "%", 2), Column("massive channels", "%", 2)]
    rows: list[list[Value]] = [
        [link_name(link), epoch + 1, 100 * first, 100 * massive]
        for link, epoch, first, massive in zip(
            *(table[name].tolist() for name in table if name != "visits"), strict=True
        )
    ]
    caption = (
        "Share of the squared norm, mean over samples: at the first position, and in the 4 channels that were the "
        "largest in the first batch. What holds most of the energy decides a cosine."
    )
    title = f"{each.run.name}: energy at the first position and in massive channels"
    return Table(f"energies-{each.run.slug}", title, columns, rows, caption)


def prefixes(each: Redundancy) -> Table:
    """How many positions each client need not have computed twice, in the order of its shard."""
    table = each.prefix()
    columns = [Column("client"), Column("samples"), Column("sharing a prefix"), Column("positions")]
    columns += [Column("shared"), Column("shared", "%", 2), Column("times fewer", digits=3)]
    rows: list[list[Value]] = []
    for client, samples, tokens, shared, sharing in zip(*(table[name].tolist() for name in table), strict=True):
        rows.append([str(client), *_prefix_row(samples, tokens, shared, sharing)])
    totals = [table[name].sum() for name in table if name != "client"]
    rows.append(["all", *_prefix_row(*totals)])
    caption = (
        "Positions whose whole prefix an earlier sample of the same client's shard has: a causal model computes the "
        "same activation there. Prefix sharing sends each of them once."
    )
    return Table(f"prefixes-{each.run.slug}", f"{each.run.name}: shared prefixes", columns, rows, caption)


def _prefix_row(samples: float, tokens: float, shared: float, sharing: float) -> list[Value]:
    return [int(samples), int(sharing), int(tokens), int(shared), 100 * shared / tokens, tokens / (tokens - shared)]
