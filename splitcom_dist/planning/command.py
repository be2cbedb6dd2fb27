"""`splitcom plan CONFIG.yaml ... --profile profile.json --limits ... --out plan.yaml`."""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from splitcom_dist.config.files import files_and_overrides, load_config, to_yaml
from splitcom_dist.errors import UserError, needing

if TYPE_CHECKING:
    from splitcom_dist.planning.estimate import Estimate
    from splitcom_dist.planning.setting import Setting

SHOWN = 8  # choices in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="CONFIG.yaml|key=value", help="of the run, as for `train`")
    add("--profile", type=Path, required=True, metavar="FILE", help="what `splitcom profile` wrote")
    add("--limits", nargs="+", default=[], metavar="name=value", help="seconds, megabytes, client_memory_mb, ...")
    add("--cuts", metavar="1,2,...", help="cut layers to choose from (default: all)")
    add("--ranks", metavar="4,8,...", help="LoRA ranks to choose from (default: lora.rank)")
    add("--codecs", metavar="none,...", help="codecs to choose from (default: all in the profile)")
    add("--out", type=Path, metavar="PLAN.yaml", help="where to write the plan, which `splitcom train` takes")


def plan(options: argparse.Namespace) -> int:
    """Print the plan, and write it; returns 0. Raises UserError."""
    config = load_config(*files_and_overrides(options.settings))
    with needing("plan", "splitcom plan"):  # imported here: torch takes seconds, a misspelt key should not
        from splitcom_dist.planning.estimate import estimate
        from splitcom_dist.planning.limits import parse, within
        from splitcom_dist.planning.setting import Choice, open_setting
    limits = parse(options.limits)
    setting = open_setting(config, options.profile)
    known = list(setting.profile.ranks[0].codecs)
    cuts = _numbers("--cuts", options.cuts, range(1, setting.shape.blocks))
    ranks = _numbers("--ranks", options.ranks, [config.lora.rank])
    codecs = options.codecs.split(",") if options.codecs else known
    if unknown := sorted(set(codecs) - set(known)):
        raise UserError(
            f"--codecs {unknown[0]}: the profile has {', '.join(known)}; `splitcom profile --from RUN` reads others"
        )
    if bad := [cut for cut in cuts if not 1 <= cut < setting.shape.blocks]:
        raise UserError(
            f"--cuts {bad[0]}: the model has {setting.shape.blocks} blocks, choose 1 to {setting.shape.blocks - 1}"
        )
    found = within([estimate(setting, Choice(*each)) for each in product(cuts, ranks, codecs)], limits)
    _print(found, setting)
    if options.out is not None:
        try:
            options.out.write_text(to_yaml(setting.applied(found[0].choice)), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {options.out}: {error.strerror}") from None
        print(f"{options.out}: splitcom train {options.out}")
    return 0


def _numbers(option: str, text: str | None, default: Sequence[int]) -> Sequence[int]:
    if text is None:
        return default
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: whole numbers, separated by commas") from None
    if min(numbers) < 1:
        raise UserError(f"{option} {text}: must be at least 1")
    return numbers


def _memory(size: int | None) -> str:
    from splitcom_dist.telemetry.summary import megabytes

    return "unknown" if size is None else megabytes(size)


def _print(found: "Sequence[Estimate]", setting: "Setting") -> None:
    from rich.console import Console
    from rich.table import Table

    from splitcom_dist.telemetry.summary import megabytes

    console, best, layout = Console(soft_wrap=True), found[0], setting.layout
    table = Table(
        box=None, pad_edge=False, header_style="dim", title="the plan, and what comes after it", title_justify="left"
    )
    for header in ("cut", "rank", "codec", "step", "run", "bytes", "client memory", "server memory"):
        table.add_column(header, justify="left" if header == "codec" else "right", no_wrap=True)
    for each in found[:SHOWN]:
        table.add_row(
            str(each.choice.cut_layer),
            str(each.choice.rank),
            each.choice.codec,
            f"{each.step_seconds:.3f} s",
            f"{each.run_seconds:,.0f} s",
            megabytes(each.bytes),
            *(_memory(size) for size in (each.client_memory, each.server_memory)),
            style="bold" if each is best else "",
        )
    console.print(table)
    console.print("\nper rank", style="dim")
    for rank in range(layout.world_size - 1):
        role = layout.role_of(rank)
        memory = best.client_memory if role == "client" else best.server_memory
        console.print(f"{layout.name_of(rank)}: {_memory(memory)} memory", highlight=False)
    for link, size in best.link_bytes.items():
        console.print(f"{link}: {megabytes(size)} in the whole run", highlight=False)
    console.print(f"adapters: {megabytes(best.adapter_bytes)}", highlight=False)
    for note in setting.profile.notes:
        console.print(f"note: {note}", highlight=False)
