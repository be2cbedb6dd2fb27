"""`splitcom partition`: print the shards that a configuration gives its clients, and draw them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from splitcom_dist.partition.composition import Composition

SUFFIXES = (".png", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "settings", nargs="*", metavar="CONFIG.yaml|key=value", help="as for `splitcom train`, such as data.alpha=0.1"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png|svg", help="draw them, too")


def partition(config: Config, plot: Path | None) -> int:
    """Print a table, write the figure to `plot`; returns exit code 0. Raises UserError, one line.

    Reads what the clients of a run would read, on this machine.
    """
    if plot is not None and plot.suffix not in SUFFIXES:
        raise UserError(f"--plot={plot}: cannot tell what to draw; name it {' or '.join(SUFFIXES)}")
    # Imported here: torch and transformers take seconds, a misspelt key should not.
    from splitcom_dist.models.sources import find_model
    from splitcom_dist.partition.composition import compose
    from splitcom_dist.partition.figure import draw
    from splitcom_dist.shards import check_length, has_own_files

    source = find_model(config.model.name)
    check_length(config, source)
    shards = compose(config, source.tokenizer())
    how = "each client's own files" if has_own_files(config) else config.data.partition
    if config.data.partition.startswith("dirichlet"):
        how += f", alpha {config.data.alpha:g}"
    title = f"{config.data.name} over {len(shards.samples)} clients: {how}"
    print_table(shards, title, config.train.batch_size)
    if plot is not None:
        draw(shards, title, plot)
        print(f"\n{plot}")
    return 0


def print_table(shards: "Composition", title: str, batch_size: int) -> None:
    """One row a client and one for all: samples, tokens, mean length, and the share of each class in percent."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
    for header in ("client", "samples", "tokens", "mean", *shards.names):
        table.add_column(header, justify="right", no_wrap=True)
    for client, (counts, tokens) in enumerate(zip(shards.counts, shards.tokens.tolist(), strict=True)):
        table.add_row(str(client), *_figures(counts.tolist(), tokens))
    table.add_row("all", *_figures(shards.counts.sum(axis=0).tolist(), int(shards.tokens.sum())), style="bold")
    table.caption = f"right of the mean length: % of a client's samples by {shards.divided_by}"
    table.caption_justify = "left"
    console = Console(soft_wrap=True)
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=9999)).maximum)
    console.print(table)  # never cut: a figure without its end says nothing
    steps = [-(-size // batch_size) for size in shards.samples.tolist()]
    console.print(f"skew {shards.skew:.3f} (0 = every client is like the whole; total variation, weighted by samples)")
    console.print(
        f"batches of {batch_size}: an epoch has the {max(steps)} steps of the largest shard, the smallest gives to "
        f"{min(steps)} of them"
    )


def _figures(counts: list[int], tokens: int) -> list[str]:
    samples = sum(counts)
    shares = [f"{100 * count / samples:.1f}" if count else "." for count in counts]
    return [f"{samples:,}", f"{tokens:,}", f"{tokens / samples:.1f}", *shares]
