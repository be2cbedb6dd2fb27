"""Rows to coefficients and back: which columns share a table of symbols, and what side bytes that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.video.transform import Rotation

LEARN = 2  # packets that bases are learnt from; they themselves go with what was there before

Bands = Sequence[int]


@dataclass(frozen=True)
class Transform:
    """Rows (n, d) to coefficients (n, w) and back; columns bands[i-1]..bands[i] share a table, `side` bytes cross."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    bands: Bands
    side: float = 0.0


def plain(width: int) -> Transform:
    return Transform(lambda rows: rows, lambda rows: rows, [width])


def hadamard(width: int) -> Transform:
    rotation, one = Rotation(width), torch.ones(1)
    return Transform(rotation.forward, lambda rows: rotation.inverse(rows, one.expand(len(rows))), [width])


def octaves(width: int) -> list[int]:
    return [*(2**power for power in range(width.bit_length()) if 2**power < width), width]


def channel_bands(rows: Tensor) -> Transform:
    """Channels in octaves by energy in `rows`: what a table of its own gives to channels that are alike."""
    order = rows.square().mean(0).argsort(descending=True)
    back = order.argsort()
    return Transform(lambda x: x[:, order], lambda y: y[:, back], octaves(len(order)), 2 * len(order))


def outliers_apart(rows: Tensor) -> Transform:
    """Channels above 6 x the median in a band of their own, the others rotated."""
    rms, rest = rows.square().mean(0).sqrt(), hadamard(rows.shape[1])
    apart = rms > 6 * rms.median()
    count = int(apart.sum())

    def inverse(y: Tensor) -> Tensor:
        restored = rest.inverse(y[:, count:])
        restored[:, apart] = y[:, :count]
        return restored

    bands = [count, count + len(rms)] if count else [len(rms)]
    return Transform(lambda x: torch.cat([x[:, apart], rest.forward(x * ~apart)], 1), inverse, bands, 2 * count)


def principal(rows: Tensor, k: int) -> Tensor:
    """(k, d): the directions that hold most of the energy of rows (n, d), about zero and not about their mean."""
    vectors = torch.linalg.eigh((rows.T @ rows).double())[1]
    directions: Tensor = vectors.flip(1)[:, :k].T.float().contiguous()
    return directions


def shared_basis(rows: Tensor, k: int, bits: int = 8) -> Transform:
    """k directions of `rows` (-1: all) at so many bits an entry, coefficients in octaves.

    What they leave is one band more, after a Hadamard rotation.
    """
    width = rows.shape[1]
    k = width if k < 0 else k
    directions = principal(rows, k)
    scale = directions.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    directions = (directions / scale).round() * scale
    dual, side = torch.linalg.pinv(directions), k * width * bits / 8 + 2 * k
    if k == width:
        return Transform(lambda rows: rows @ dual, lambda rows: rows @ directions, octaves(k), side)
    rest = hadamard(width)

    def forward(rows: Tensor) -> Tensor:
        coefficients = rows @ dual
        return torch.cat([coefficients, rest.forward(rows - coefficients @ directions)], 1)

    return Transform(forward, lambda y: y[:, :k] @ directions + rest.inverse(y[:, k:]), [*octaves(k), k + width], side)
