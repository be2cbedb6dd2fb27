"""P frames: bits an element of each scheme at equal error, of the deltas that a loop with Hadamard sends."""

from collections import defaultdict

import torch
from dumps import Packet, visits
from loop import Scheme, run
from rate import bits_at, norm
from transforms import LEARN, Transform, channel_bands, hadamard, plain, shared_basis


def predicted(packets: list[Packet], tau: float, kappa: float, every: bool) -> dict[str, list[float]]:
    """Bits an element without side, and side bits on this shard, at equal error, of the P frames that a Hadamard
    loop sends in epochs 1 to 4."""
    width, first = packets[0].activation.shape[1], torch.cat([x for _, x in visits(packets, 0)[:LEARN]])
    log = run(packets, tau, kappa, Scheme(rounding=0.5))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    elements, previous = 0, torch.zeros(0, width)
    for epoch in range(5):
        sent = [each for each in log if each.epoch == epoch and len(each.rows)]
        learnt = torch.cat([torch.zeros(0, width), *(each.deltas for each in sent[:LEARN])])
        deltas, rows = [each.deltas for each in sent], [each.rows for each in sent]
        if epoch and sum(map(len, deltas)) > 100 and len(learnt) > 20 and len(previous) > 20:
            sizes = [norm(x) for x in rows]
            bases = {
                f"(d) {'all' if k < 0 else k} directions": (shared_basis(learnt, k), 0.4) for k in (8, 16, 32, 64, -1)
            }
            schemes: dict[str, tuple[Transform, float]] = {
                "(a) uniform": (plain(width), 0.5),
                "(b) Hadamard": (hadamard(width), 0.5),
                "(c) Hadamard, rounding 0.4": (hadamard(width), 0.4),
                "(c) Hadamard, rounding 0.33": (hadamard(width), 0.33),
                "(c) uniform, rounding 0.4": (plain(width), 0.4),
                "channel bands, rounding 0.4": (channel_bands(learnt), 0.4),
                **bases,
                "(d) 32 of the epoch before": (shared_basis(previous, 32), 0.4),
                "(d) all of the epoch before": (shared_basis(previous, -1), 0.4),
                "KLT of activations, all": (shared_basis(first, -1), 0.4),
            }
            short = ("(b) Hadamard", "(c) Hadamard, rounding 0.4", "(d) 32 directions", "KLT of activations, all")
            for name in schemes if every else short:
                transform, rounding = schemes[name]
                count = sum(x.numel() for x in deltas)
                sums[name][0] += count * bits_at(tau * kappa, deltas, sizes, transform, rounding)
                sums[name][1] += 0 if "before" in name or "KLT" in name else 8 * transform.side
            if every:
                for name, transform in (
                    ("(f) intra, Hadamard", hadamard(width)),
                    ("(f) intra, KLT", shared_basis(first, -1)),
                ):
                    sums[name][0] += count * bits_at(tau * kappa, rows, sizes, transform, 0.4)
            elements += count
        previous = torch.cat([torch.zeros(0, width), *deltas])
    return {name: [coded / elements, side / elements, elements / width] for name, (coded, side) in sums.items()}
