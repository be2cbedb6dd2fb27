"""The tables of benchmarks/pareto.py, and who needs fewer bytes at equal perplexity."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from pareto_points import FRONT, FROZEN_VIDEO
from pareto_runs import Cell

from splitcom_dist.telemetry.summary import megabytes

GOAL = 0.5  # per cent of perplexity above codec `none`


def front(cells: Sequence[Cell]) -> list[Cell]:
    """Those of lower perplexity than all cheaper ones, cheapest first."""
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda cell: (cell.share, cell.loss)):
        if not kept or cell.loss < kept[-1].loss:
            kept.append(cell)
    return kept


def share_at(curve: Sequence[Cell], loss: float) -> float | None:
    """Bytes of the front at a perplexity: log bytes are linear between neighbours; None below all that it reaches.

    Nothing is extrapolated: at perplexities above the cheapest point's it is that point's bytes.
    """
    if loss >= curve[0].loss:
        return curve[0].share
    for cheap, dear in pairwise(curve):
        if loss >= dear.loss:
            part = (cheap.loss - loss) / (cheap.loss - dear.loss)
            return math.exp(math.log(cheap.share) * (1 - part) + math.log(dear.share) * part)
    return None


def results_table(cells: Sequence[Cell]) -> list[str]:
    """A row a point: quality, bytes and frames, mean and standard deviation over seeds."""
    names = list(cells[0].results[0].summary.links)
    heads = ["method", "point", "seeds", "perplexity", "to `none`", "uplink", *names, "total"]
    heads += ["of real FP16", "of padded FP16", "BLEU", "I / P / S"]
    lines = [line(heads), line(["---", "---", *["---:"] * (len(heads) - 2)])]
    for cell in cells:
        runs, summaries = cell.results, [each.summary for each in cell.results]
        row = [cell.point.method, cell.point.label, str(len(runs)), spread([each.ppl for each in summaries], ".2f")]
        row += [spread(cell.ratios, "+.2f") + " %", mean_bytes([each.uplink for each in runs])]
        row += [mean_bytes([each.links[name]["wire_bytes"] for each in summaries]) for name in names]
        row += [mean_bytes([each.wire_bytes for each in summaries]), f"{cell.share:.2f} %"]
        padded = [100 * each.summary.wire_bytes / each.baseline("raw_padded_bytes") for each in runs]
        bleu = [each.bleu for each in runs if each.bleu is not None]
        row += [f"{statistics.mean(padded):.2f} %", spread(bleu, ".1f") if bleu else "", frames(cell)]
        lines.append(line(row))
    return lines


def rivals_table(cells: Sequence[Cell]) -> list[str]:
    """Each rival against the front of video at the rival's perplexity, and in words who wins."""
    ours = [cell for cell in cells if cell.point.method in FRONT]
    rivals = [cell for cell in cells if cell.point.method not in FRONT or cell.point.method == FROZEN_VIDEO]
    if not ours:
        return ["No run of video."]
    heads = ["rival", "perplexity to `none`", "its bytes", "video at that perplexity", "rival / video", "fewer bytes"]
    heads.append("cheapest video point at most that perplexity")
    lines = [line(heads), line(["---", *["---:"] * 4, "---", "---"])]
    lost = []
    for rival in rivals:
        curve = front([cell for cell in ours if cell is not rival])
        share = share_at(curve, rival.loss) if curve else None
        row = [rival.name, f"{rival.loss:+.2f} %", f"{rival.share:.2f} %"]
        if share is None:
            best = f"not reached, least {curve[-1].loss:+.2f} %, {curve[-1].share:.2f} %" if curve else "no other point"
            row += [best, "-", "no"]
        else:
            row += [f"{share:.2f} %", f"{rival.share / share:.2f}", "yes" if share < rival.share else "no"]
        lost += [rival.name] if row[-1] == "no" else []
        point = next((cell for cell in curve if cell.loss <= rival.loss), None)
        lines.append(line([*row, f"{point.name} ({point.loss:+.2f} %, {point.share:.2f} %)" if point else "none"]))
    return [*lines, "", verdict(cells, lost)]


def verdict(cells: Sequence[Cell], lost: Sequence[str]) -> str:
    """Which rivals the front does not beat, and what is cheapest within the goal, `frozen` by its name."""
    words = f"Not beaten at equal perplexity: {'; '.join(lost)}." if lost else "Every rival is beaten."
    near = sorted((cell for cell in cells if cell.loss <= GOAL), key=lambda cell: cell.share)
    if not near:
        return f"{words} No point is within {GOAL} % of `none`."
    cheapest = {cell.point.method: cell for cell in reversed(near)}
    listed = [f"{cell.name}: {cell.share:.2f} %" for cell in sorted(cheapest.values(), key=lambda cell: cell.share)]
    words += f"\n\nCheapest within {GOAL} % of `none`, of real-token FP16: {'; '.join(listed)}."
    if near[0].point.method in ("frozen", FROZEN_VIDEO):
        words += " A head that never trains wins here."
    for cell in cells:
        if cell.point.method in ("frozen", FROZEN_VIDEO):
            words += (
                f" `{cell.point.method}` is at {cell.loss:+.2f} % of perplexity for {cell.share:.2f} % of the bytes."
            )
    return words


def frames(cell: Cell) -> str:
    """Shares of all tokens on all links."""
    counts = [sum(link[kind] for each in cell.results for link in each.summary.links.values()) for kind in "IPS"]
    return " / ".join(f"{100 * count / max(1, sum(counts)):.0f}" for count in counts) + " %"


def spread(values: Sequence[float], form: str) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form.lstrip('+')}}"


def mean_bytes(values: Sequence[int]) -> str:
    return megabytes(round(statistics.mean(values)))


def line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
