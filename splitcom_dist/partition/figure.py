"""The shards as a figure: one bar a client, as long as it has samples, in the colours of their classes."""

from pathlib import Path

from splitcom_dist.errors import UserError
from splitcom_dist.partition.composition import Composition

WRITTEN = 40  # most clients that are written beside their bars


def draw(shards: Composition, title: str, path: Path) -> None:
    """Write a png or svg. Raises UserError where matplotlib is missing or the file cannot be written."""
    try:
        import matplotlib
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install "splitcom-dist[figures]"') from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    clients, few = len(shards.samples), len(shards.samples) <= WRITTEN
    height = 0.3 * clients if few else 12
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + height), layout="constrained")
    # Lengths have an order, which one run of colours shows; labels have none.
    ordered = shards.divided_by == "tokens a sample"
    colours = pyplot.get_cmap("viridis" if ordered else "tab20")
    left, rows = 0 * shards.samples, range(clients)
    for number, name in enumerate(shards.names):
        place = number / max(1, len(shards.names) - 1) if ordered else number
        axes.barh(rows, shards.counts[:, number], left=left, color=colours(place), label=name, height=0.8)
        left = left + shards.counts[:, number]
    if few:
        for row, (samples, tokens) in enumerate(zip(shards.samples.tolist(), shards.tokens.tolist(), strict=True)):
            axes.annotate(
                f" {samples:,} of mean length {tokens / samples:.0f}", (samples, row), va="center", fontsize=8
            )
        axes.set_yticks(rows)
    axes.invert_yaxis()
    axes.margins(x=0.26 if few else 0.02, y=0.01)
    axes.set(xlabel="samples", ylabel="client", title=f"{title}; skew {shards.skew:.2f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", title=shards.divided_by, frameon=False, fontsize=8)
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(f"--plot={path}: {error.strerror or error}; name a file in a folder that is there") from None
    finally:
        pyplot.close(figure)
