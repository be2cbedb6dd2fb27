"""The figures of one model as tables, each with what it was taken to say."""

from collections.abc import Iterable, Sequence
from typing import Any

from intra_frames import ERRORS
from rate import KAPPAS, TAUS

Sided = dict[str, dict[str, list[float]]]  # by setting and scheme: bits, side bits and rows

CONCLUSIONS = {
    "activations": "Six channels hold 82 % of SmolLM2's energy, 54 % of a median row's: white noise of a given "
    "relative error is 1.5 times as large relative to the other channels, the adapter's change 1.2 "
    "times. tiny has none.",
    "intra": "Build uniform steps in a KLT learnt from the first packets, entropy-coded by octaves of "
    "coefficients: 1.9-2.1 bits below Hadamard, 2.4-3 below 4-bit groups. Hadamard costs 0.1-0.7 bit "
    "over no rotation: entropy coding wants uneven channels. Outliers apart and centring win 0-0.5 bit "
    "back. 64 directions pay on these shards; all of them on tiny here, at width 576 from about 200 "
    "samples. For rows near one already sent see the loop: means are equal here, bounds are not.",
    "predicted": "A delta beats intra at every threshold. Rounding 0.4 gains 1-7 %. At equal error a basis of the "
    "epoch's own deltas saves 30-65 %, the activations' KLT (no further side) 22-28 %, the epoch "
    "before's deltas lie around that. Side counted, 8-32 directions win on these shards, all of them on "
    "40,000 samples.",
    "motion": "Rank 16 explains 0.4-0.6 of the change's energy, the mean change alone 0.15-0.36; what that saves "
    "once a basis codes the change is in the loop: 3-5 % on tiny, a loss on SmolLM2. Not worth "
    "building.",
    "gradients": "No token is exactly zero, and 90 % of the energy takes 41-48 % of the tokens. One step a packet "
    "saves 0.2-0.4 bit over one a row, and 11-17 % over sampling half of the tokens at equal variance "
    "(at an eighth sampling wins, at four times the gradient's energy as variance). Hadamard helps only "
    "steps from the largest magnitude. A KLT (no side counted) saves 0.2-0.6 bit more, coding the "
    "change since the epoch before 0.5-1.9.",
    "loop": "A first step for 0.7-1.0 of the bound beats 0.3-0.5. At 0.7 one KLT for I and P takes 26-39 % off "
    "Hadamard once its bytes are spread, refitting for P 0-12 % more. Prefix keys halve bytes. A row of "
    "like context as reference of a first visit takes 32-45 % off Hadamard on SmolLM2, 5-8 % on tiny, "
    "with no basis to send.",
}


def tables(name: str, found: dict[str, Any]) -> list[str]:
    """The figures of one model; bits are bits an element."""
    return [
        f"## {name}",
        "",
        *section("Activations", "activations", about_rows(found["channels"], found["intra"]["nearest"])),
        *section(
            "I frames: bits at equal mean relative error; side bits on this shard and on 40,000 samples",
            "intra",
            about_intra(found["intra"]),
        ),
        *section(
            "P frames of epochs 1-4: bits + side bits on this shard at error 0.5 τ (none: fewer than 100 an epoch)",
            "predicted",
            about_predicted(found["predicted"], found["predicted by kappa"]),
        ),
        *section(
            "Global motion: explained energy of the change, and share of tokens above τ, on unseen tokens by epoch",
            "motion",
            about_motion(found["motion"]),
        ),
        *section("Gradients", "gradients", about_gradients(found["gradients"])),
        *section(
            "The loop: percent of FP16 over all epochs (first epoch), side amortised over 40,000 samples",
            "loop",
            about_loop(found["grid"], found["loops"]),
        ),
    ]


def section(title: str, part: str, lines: Sequence[str]) -> list[str]:
    return [f"### {title}", "", CONCLUSIONS[part], *lines]


def about_rows(about: dict[str, Any], nearest: Sequence[float]) -> list[str]:
    outliers = ", ".join(f"{j}: {factor}" for j, factor in about["outliers"].items())
    rows = [
        ["distinct prefixes in an epoch", about["rows"]],
        ["channels above 6 x the median rms: factor", outliers or "none"],
        ["their share of the energy", about["outlier energy"]],
        ["their share of a row's energy, median", about["outlier energy, median row"]],
        ["channels above 6 x, mean taken off", about["outliers centred"]],
        ["energy left, mean taken off", about["energy centred"]],
        *([f"change to the next epoch, median, {key}", value] for key, value in about["change"].items()),
        [
            "distance to the nearest row sent before, p10 / median / p90",
            "{:.3f} / {:.3f} / {:.3f}".format(*nearest),
        ],
    ]
    return markdown(["", "value"], rows)


def about_intra(found: dict[str, Any]) -> list[str]:
    return [
        *markdown(["", *map(str, ERRORS), "side", "side, 40,000"], [[k, *v] for k, v in found["schemes"].items()]),
        "Groups with FP16 scales, and what two uniform quantizers take for the same error:",
        *markdown(
            ["", "error", "bits", "entropy coded", "(d) Hadamard", "(f) KLT, all"],
            [[k, *v] for k, v in found["groups"].items()],
        ),
    ]


def about_predicted(by_tau: Sided, by_kappa: Sided) -> list[str]:
    return [
        *side_by_side([f"τ {tau}" for tau in by_tau], by_tau),
        "τ and κ:",
        *side_by_side(list(by_kappa), by_kappa),
    ]


def side_by_side(head: Sequence[str], columns: Sided) -> list[str]:
    names = dict.fromkeys(key for column in columns.values() for key in column)
    return markdown(["", *head], [[key, *(with_side(column, key) for column in columns.values())] for key in names])


def about_motion(found: list[dict[str, float]]) -> list[str]:
    epochs = map(str, range(1, 1 + len(found)))
    return markdown(["", *epochs], [[key, *(row[key] for row in found)] for key in found[0]])


def about_gradients(found: list[dict[str, Any]]) -> list[str]:
    epochs = [str(each["epoch"]) for each in found]
    energy = [
        [e["epoch"], e["zero"], "{:.2f} / {:.2f} / {:.2f}".format(*e["tokens"]), e.get("change", "")] for e in found
    ]
    largest = [[key, *(with_variance(each["largest"][key]) for each in found)] for key in found[0]["largest"]]
    at = [[key, *(several(e["at"][key]) if key in e["at"] else "" for e in found)] for key in found[-1]["at"]]
    sampling = [[share, *(several(each["sampling"][share]) for each in found)] for share in found[0]["sampling"]]
    return [
        *markdown(["epoch", "exactly zero", "tokens with 90 / 95 / 99 %", "energy of the change"], energy),
        "Step a row from its largest magnitude: bits, then added variance over squared norm:",
        *markdown(["epoch", *epochs], largest),
        "Bits at added variance 0.03 / 0.1 / 0.3:",
        *markdown(["epoch", *epochs], at),
        "Sampling: variance of that alone, and with 4-bit Hadamard rounding; bits; a step a packet at the same, bits:",
        *markdown(["keep", *(f"epoch {epoch}" for epoch in epochs)], sampling),
    ]


def about_loop(grid: dict[str, Any], loops: dict[str, Any]) -> list[str]:
    lines = []
    for scheme, cells in grid.items():
        rows = [[f"τ {tau}", *(percent(cells[f"{tau} {kappa}"]) for kappa in KAPPAS)] for tau in TAUS]
        lines += ["", f"{scheme}:", *markdown(["", *(f"κ {kappa}" for kappa in KAPPAS)], rows)]
    rows = [[key, *(both_shards(cell) for cell in cells.values())] for key, cells in loops.items()]
    return [
        *lines,
        "κ 0.7, by scheme: side on this shard / on 40,000 samples",
        *markdown(["", "τ 0.05", "τ 0.1"], rows),
    ]


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return [
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]


def with_side(table: dict[str, list[float]], key: str) -> str:
    return "{:.2f} + {:.2f}".format(*table[key]) if key in table else "none"


def with_variance(values: Sequence[float]) -> str:
    return "{:.2f}, {:.4f}".format(*values)


def several(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def percent(cell: dict[str, list[float]]) -> str:
    return f"{100 * sum(cell['large']):.1f} ({100 * cell['large'][0]:.1f})"


def both_shards(cell: dict[str, list[float]]) -> str:
    return f"{100 * sum(cell['this']):.1f} / {percent(cell)}"
