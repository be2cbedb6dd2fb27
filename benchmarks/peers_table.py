"""The table of benchmarks/peers.py."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from peers_job import CLIENTS, GPT2_SMALL, HELD_OUT, Job
from peers_outcome import Outcome

HEADERS = (
    *("tokens/s", "least to most", "of the first row", "MB sent", "own count", "memory, all", "largest process"),
    *("lines written", "held-out loss", "whole run"),
)


def page(
    job: Job,
    model: str,
    e2e: bool,
    lines: Mapping[str, int],
    outcomes: Mapping[str, Sequence[Outcome]],
    missing: Mapping[str, str],
) -> str:
    """Markdown: the job, a row a method (with the lines a user writes for it), and reasons of those not run."""
    shape, rounds = job.shape, max(map(len, outcomes.values()), default=0)
    text = [
        "# The same job with others",
        "",
        f"{'GPT-2 small, random weights' if model == GPT2_SMALL else Path(model).name} "
        f"({shape.n_layer} x {shape.n_embd}, vocabulary {shape.vocab_size:,}), "
        f"{'E2E' if e2e else 'the built-in corpus'}, {CLIENTS} clients of "
        f"{job.steps * job.batch} texts, {job.epochs} epochs, batch {job.batch}, LoRA rank {job.rank}, AdamW at "
        f"{job.lr:g}; {job.epoch_tokens:,} positions an epoch without padding, texts of at most {job.longest} tokens, "
        f"{HELD_OUT} held out. {platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}; "
        f"medians of {rounds} interleaved runs. How each was run and what is counted: docs/peers.md.",
        "",
        f"| | {' | '.join(HEADERS)} |",
        f"|---|{'---:|' * len(HEADERS)}",
    ]
    base = next(iter(outcomes.values()), ())
    text += [f"| {name} | {row(own, base, lines[name])} |" for name, own in outcomes.items()]
    text += [f"| {name} | {reason} |{' |' * (len(HEADERS) - 1)}" for name, reason in missing.items()]
    for name, own in outcomes.items():
        if shares := [each.training for each in own if each.training is not None]:
            said = f"{name}: clients trained for {statistics.median(shares):.0%} of the time behind its tokens/s; "
            text += ["", said + "the rest of it starts processes, loads models, sends and averages."]
    return "\n".join([*text, ""])


def row(own: Sequence[Outcome], base: Sequence[Outcome], lines: int) -> str:
    """Cells of one method but the first; the ratio is the median over rounds, each against its own round."""
    rates = [each.tokens_per_second for each in own]
    ratio = statistics.median(each.tokens_per_second / of.tokens_per_second for each, of in zip(own, base, strict=True))
    losses, counted = [each.loss for each in own if each.loss is not None], own[0].own_count
    cells = [
        f"{statistics.median(rates):,.0f}",
        f"{min(rates):,.0f} - {max(rates):,.0f}",
        f"{ratio:.2f}",
        f"{statistics.median(each.sent for each in own) / 1e6:,.2f}",
        f"{counted / 1e6:,.2f}" if counted is not None else "-",
        f"{statistics.median(each.memory_sum for each in own) / 1e6:,.0f} MB",
        f"{statistics.median(each.memory_largest for each in own) / 1e6:,.0f} MB",
        str(lines),
        f"{statistics.median(losses):.3f}" if losses else "-",
        f"{statistics.median(each.seconds for each in own):.0f} s",
    ]
    return " | ".join(cells)
