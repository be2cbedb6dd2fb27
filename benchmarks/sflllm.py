"""How much sooner SflLLM's plan ends than its baselines a-d, for GPT-2 small with five clients.

    python benchmarks/sflllm.py  # some minutes; writes benchmarks/results/sflllm.md

Each baseline leaves one block to chance and has the others at their best. E(r) is fitted to runs of the embedded model
(rank_epochs.md), not of GPT-2, so delays are of use in comparison with each other.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import transformers

from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.sflllm import SflllmConfig, costs_of, draw
from splitcom_dist.plan.sflllm_descent import BASELINES, Plan, solve

RESULTS = Path(__file__).parent / "results"
DROPS, DRAWS = 5, 4  # of users; of chance for each
BASE = SflllmConfig()
SETTINGS = {
    "default": BASE,
    "half the subchannels' width": replace(BASE, subchannel_hz=BASE.subchannel_hz / 2),
    "twice the width": replace(BASE, subchannel_hz=BASE.subchannel_hz * 2),
    "10 dB less power": replace(
        BASE, client_power_dbm=BASE.client_power_dbm - 10, total_power_dbm=BASE.total_power_dbm - 10
    ),
    "server as slow as a client": replace(BASE, server_flops=1e12),
    "clients of 240 MB": replace(BASE, server_flops=1e12, client_memory_bytes=240e6),
}


def main() -> None:
    shape = model_shape(transformers.GPT2Config())
    lines = [
        "# SflLLM: delay of the plan, and what chance adds",
        "",
        f"GPT-2 small, {BASE.clients} clients, batch {BASE.batch.samples} x {BASE.batch.length}, "
        f"{BASE.main_subchannels} subchannels to each server; means over {DROPS} drops of users, baselines over "
        f"{DRAWS} draws each. In brackets by how much the plan is below the baseline. `clients of 240 MB` has the slow "
        "server too.",
        "",
        "| setting | plan, s | split | rank | "
        + " | ".join(f"{key}: random {name}" for key, name in BASELINES.items())
        + " |",
        "|---|---:|---|---|" + "---:|" * len(BASELINES),
    ]
    for title, config in SETTINGS.items():
        costs = costs_of(shape, config)
        plans: list[Plan] = []
        others: dict[str, list[float]] = {name: [] for name in BASELINES.values()}
        for seed in range(DROPS):
            instance = draw(config, costs, seed)
            plans.append(solve(instance))
            for name, found in others.items():
                found += [solve(instance, name, draw_).delay_seconds for draw_ in range(DRAWS)]
        best = mean(plan.delay_seconds for plan in plans)
        splits, ranks = ({*found} for found in ([p.choice.split for p in plans], [p.rank for p in plans]))
        cells = " | ".join(f"{mean(found):.0f} ({100 * (best / mean(found) - 1):+.0f} %)" for found in others.values())
        lines.append(f"| {title} | {best:.1f} | {shown(splits)} | {shown(ranks)} | {cells} |")
        print(lines[-1], flush=True)
    (RESULTS / "sflllm.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def shown(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


if __name__ == "__main__":
    main()
