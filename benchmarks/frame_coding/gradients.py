"""Gradients: bits of stochastic rounding and of sampling, at equal added variance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from dumps import SEED, Packet
from rate import bisect, norm, symbol_bytes
from torch import Tensor
from transforms import LEARN, Transform, hadamard, plain, shared_basis

Steps = Callable[[Tensor, Tensor], Tensor]  # coefficients and gradients to steps: (n, 1), or (1, 1) for a packet


def by_row(scale: float) -> Steps:
    return lambda _, rows: scale * norm(rows).unsqueeze(1) / math.sqrt(rows.shape[1])


def by_packet(scale: float) -> Steps:
    return lambda _, rows: (scale * rows.norm() / math.sqrt(rows.numel())).view(1, 1)


def by_largest(bits: int) -> Steps:
    return lambda coefficients, _: coefficients.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)


def stochastic(packets: Sequence[Tensor], transform: Transform, steps: Steps, energy: float) -> tuple[float, float]:
    """Bytes of stochastically rounded rows, and the squared error over `energy`. Draws are the same at each call."""
    generator, total, error = torch.Generator().manual_seed(SEED), 0.0, 0.0
    for rows in packets:
        coefficients = transform.forward(rows)
        step = steps(coefficients, rows).clamp_min(1e-30)
        symbols = (coefficients / step + torch.rand(coefficients.shape, generator=generator)).floor()
        error += float((transform.inverse(symbols * step) - rows).square().sum())
        total += symbol_bytes(symbols, transform.bands) + step.numel()
    return total, error / energy


def at_variance(
    goal: float, packets: Sequence[Tensor], transform: Transform, steps: Callable[[float], Steps], energy: float
) -> float:
    """Bits an element when the error's energy is `goal` of the gradient's."""
    factor = bisect(lambda scale: stochastic(packets, transform, steps(scale), energy)[1], goal, 1e-3, 1e3)
    return 8 * stochastic(packets, transform, steps(factor), energy)[0] / sum(rows.numel() for rows in packets)


def sampled(rows: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Rows kept with probability min(1, c·norm), over it; and the squared error that is expected of that."""
    size = norm(rows)
    scale = bisect(lambda c: float((c * size).clamp(max=1).mean()), share, 1e-3, 1e12)
    probability = (scale * size).clamp(max=1)
    kept = torch.rand(size.shape, generator=generator) < probability
    return rows[kept] / probability[kept].unsqueeze(1), float((size.square() * (1 / probability - 1))[size > 0].sum())


def gradient_figures(packets: list[Packet]) -> list[dict[str, Any]]:
    last, found = packets[-1].epoch, []
    for epoch in (0, (last + 1) // 2, last):
        rows = [packet.gradient for packet in packets if packet.epoch == epoch]
        width, energy = rows[0].shape[1], sum(float(x.square().sum()) for x in rows)
        shares = torch.cat([x.square().sum(1) / x.square().sum() for x in rows]) / len(rows)
        held = shares.sort(descending=True).values.cumsum(0)
        identity, rotated, klt = plain(width), hadamard(width), shared_basis(torch.cat(rows[:LEARN]), -1)
        row: dict[str, Any] = {
            "epoch": epoch,
            "zero": float((shares == 0).float().mean()),
            "tokens": [float((held < share).float().mean()) for share in (0.9, 0.95, 0.99)],
            "largest": {
                f"{name}, {bits} bit": stochastic(rows, transform, by_largest(bits), energy)
                for bits in (4, 5, 6)
                for name, transform in (("plain", identity), ("Hadamard", rotated))
            },
        }
        elements = sum(x.numel() for x in rows)
        row["largest"] = {name: [8 * total / elements, error] for name, (total, error) in row["largest"].items()}
        schemes = {
            "step a row": (rows, identity, by_row),
            "step a row, Hadamard": (rows, rotated, by_row),
            "step a packet": (rows, identity, by_packet),
            "step a packet, Hadamard": (rows, rotated, by_packet),
            "step a packet, KLT all": (rows, klt, by_packet),
        }
        if epoch:
            before = {
                int(key): g
                for packet in packets
                if packet.epoch == epoch - 1
                for key, g in zip(packet.position, packet.gradient, strict=True)
            }
            keys = [packet.position for packet in packets if packet.epoch == epoch]
            change = [x - torch.stack([before[int(k)] for k in key]) for x, key in zip(rows, keys, strict=True)]
            row["change"] = sum(float(x.square().sum()) for x in change) / energy
            schemes["change, step a packet"] = (change, identity, by_packet)
        row["at"] = {
            name: [at_variance(goal, x, transform, steps, energy) for goal in (0.03, 0.1, 0.3)]
            for name, (x, transform, steps) in schemes.items()
        }
        row["sampling"] = {}
        for share in (0.5, 0.25, 0.125):
            generator = torch.Generator().manual_seed(SEED)
            kept, lost = zip(*(sampled(x, share, generator) for x in rows), strict=True)
            total, error = stochastic(kept, rotated, by_largest(4), energy)
            variance = sum(lost) / energy
            equal = at_variance(variance + error, rows, identity, by_packet, energy)
            row["sampling"][share] = [variance, variance + error, 8 * total / elements, equal]
        found.append(row)
    return found
