"""The figure of benchmarks/wan.py: seconds to the target, a bar a method, a group of bars a rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

COLOURS = {"SplitLoRA, FP16": "#000000", "SplitCom, INT8": "#009E73", "video": "#D55E00"}  # as in pareto_figure.py
WIDTH = 0.27  # of a bar and the gap to the next


def draw(times: Mapping[str, Sequence[float | None]], rates: Sequence[int], link: str, file: Path) -> None:
    """`times` by method, one a rate, None where the target is never reached; `link` says what the rates are of."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.2), layout="constrained")
    for index, (method, seconds) in enumerate(times.items()):
        found = [(rate, value) for rate, value in enumerate(seconds) if value is not None]
        places = [rate + (index - (len(times) - 1) / 2) * WIDTH for rate, _ in found]
        heights = [value for _, value in found]
        bars = axes.bar(places, heights, width=WIDTH - 0.02, color=COLOURS[method], label=method)
        axes.bar_label(bars, [f"{height:.3g}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(rates)), [str(rate) for rate in rates])
    axes.set_xlabel(link)
    axes.set_ylabel("seconds to the target perplexity")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
