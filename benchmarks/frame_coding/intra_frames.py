"""I frames: what first visits look like, and bits an element of each scheme at equal mean relative error."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from dumps import Packet, visits
from rate import bits_at, groups, norm, symbol_bytes
from torch import Tensor
from transforms import Transform, channel_bands, hadamard, outliers_apart, plain, shared_basis

ERRORS = (0.025, 0.05, 0.1, 0.15)


def nearest_sent(rows: Sequence[Tensor]) -> list[Tensor]:
    """What is left of each row without the nearest row that was sent before it, or all of it if none is near."""
    left, sent = [], torch.zeros(0, rows[0].shape[1])
    for packet in rows:
        sent = torch.cat([sent, packet])
        distance = torch.cdist(packet, sent)
        own = torch.arange(len(sent) - len(packet), len(sent)).unsqueeze(1)
        distance[torch.arange(len(sent)) >= own] = math.inf
        least, index = distance.min(1)
        left.append(packet - sent[index] * (least < norm(packet)).unsqueeze(1))
    return left


def channels(packets: list[Packet]) -> dict[str, Any]:
    """Outlier channels, and what they do to a relative error."""
    first, second = (
        {int(k): row for keys, rows in visits(packets, e) for k, row in zip(keys, rows, strict=True)} for e in (0, 1)
    )
    before, after = (torch.stack([table[key] for key in first]) for table in (first, second))
    mean = before[:200].mean(0)
    rms, centred = before.square().mean(0).sqrt(), (before - mean).square().mean(0).sqrt()
    outlier = rms > 6 * rms.median()
    change, still = norm(after - before), norm((after - before)[:, ~outlier])
    medians = {
        "all channels": change / norm(after),
        "without outliers": still / norm(after[:, ~outlier]),
        "of the centred norm": change / norm(after - mean),
    }
    return {
        "rows": len(before),
        "outliers": {int(j): round(float(rms[j] / rms.median()), 1) for j in outlier.nonzero().flatten()},
        "outlier energy": float(rms[outlier].square().sum() / rms.square().sum()),
        "outlier energy, median row": float((before[:, outlier].square().sum(1) / before.square().sum(1)).median()),
        "outliers centred": int((centred > 6 * centred.median()).sum()),
        "energy centred": float(centred.square().sum() / rms.square().sum()),
        "change": {name: float(value.median()) for name, value in medians.items()},
    }


def intra(packets: list[Packet], copies: float) -> dict[str, Any]:
    """Bits an element of every first visit after the second packet; what is learnt is learnt from those two."""
    rows = [x for _, x in visits(packets, 0)]
    known, rest, left = torch.cat(rows[:2]), rows[2:], nearest_sent(rows)
    sizes, mean, width = [norm(x) for x in rest], known.mean(0), known.shape[1]
    centred, from_nearest = [x - mean for x in rest], left[2:]
    whole = shared_basis(known, width)
    schemes: dict[str, tuple[Transform, list[Tensor]]] = {
        "(c) uniform": (plain(width), rest),
        "channel bands": (channel_bands(known), rest),
        "(d) Hadamard": (hadamard(width), rest),
        "outliers apart, Hadamard": (outliers_apart(known), rest),
        "(e) centre, Hadamard": (hadamard(width), centred),
        "centre, channel bands": (channel_bands(known - mean), centred),
        **{f"(f) KLT, {k} directions": (shared_basis(known, k), rest) for k in (32, 64, 128)},
        "(f) KLT, all": (whole, rest),
        "KLT, all, 4 bits an entry": (shared_basis(known, width, 4), rest),
        "KLT of the whole shard": (shared_basis(torch.cat(rows), width), rest),
        "nearest sent, Hadamard": (hadamard(width), from_nearest),
        "nearest sent, KLT all": (whole, from_nearest),
    }
    elements = sum(x.numel() for x in rows)
    table = {}
    for name, (transform, changed) in schemes.items():
        side = transform.side + (2 * width if "centre" in name else 0)
        at = [bits_at(error, changed, sizes, transform) for error in ERRORS]
        table[name] = [*at, 8 * side / elements, 8 * side / elements / copies]
    blocks = {}
    for name, transform in (("(a) groups of 32", plain(width)), ("(b) Hadamard, groups of 32", hadamard(width))):
        for bits in (4, 5):
            made = [groups(x, bits, transform) for x in rest]
            error = float(torch.cat([norm(y - x) / s for (_, y), x, s in zip(made, rest, sizes, strict=True)]).mean())
            coded = 8 * sum(symbol_bytes(s, [width]) for s, _ in made) / sum(x.numel() for x in rest)
            equal = [bits_at(error, rest, sizes, schemes[other][0]) for other in ("(d) Hadamard", "(f) KLT, all")]
            blocks[f"{name}, {bits} bit"] = [error, bits + 0.5, coded + 0.5, *equal]
    distance = torch.cat([norm(x) for x in from_nearest]) / torch.cat(sizes)
    quantiles = [float(q) for q in distance.quantile(torch.tensor([0.1, 0.5, 0.9]))]
    return {"schemes": table, "groups": blocks, "nearest": quantiles}
