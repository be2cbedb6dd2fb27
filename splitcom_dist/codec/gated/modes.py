"""The mode map of a packet: which samples are sent, and, where the link rescales, a gain for every skipped token."""

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.ragged import rows_of
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import to_host
from splitcom_dist.errors import WireError

GAIN_BYTES = 2  # bf16


def pack_modes(send: Tensor, gains: Tensor | None, lengths: Tensor) -> Tensor:
    """(B,) bool, (T,) bf16 or None, (B,) -> uint8: eight samples a byte, first in the lowest bit, then the gains.

    The section is in host memory; gains on a device are waited for.
    """
    bitmap = torch.from_numpy(np.packbits(send.numpy(), bitorder="little"))
    if gains is None:
        return bitmap
    return torch.cat([bitmap, to_host(rows_of(~send, lengths, gains)).view(torch.uint8)])


def unpack_modes(packed: Tensor, lengths: Tensor, rescale: bool) -> tuple[Tensor, Tensor | None]:
    """Which samples are sent (B,), and the gains (n,) of the n skipped rows, None without `rescale`.

    Raises WireError if the size is not what the map itself says it must be.
    """
    count = len(lengths)
    size = (count + 7) // 8
    if len(packed) < size:
        raise WireError(f"modes: {len(packed)} bytes for {count} samples")
    bits = np.unpackbits(packed[:size].numpy(), bitorder="little").astype(bool)
    if bits[count:].any():
        raise WireError("modes: bits set behind the last sample")
    send, gains = torch.from_numpy(bits[:count]), packed[size:]
    rows = int(lengths[~send].sum())
    if len(gains) != (GAIN_BYTES * rows if rescale else 0):
        raise WireError(f"modes: {len(gains)} bytes of gains for {rows} skipped tokens")
    return send, gains.clone().view(torch.bfloat16) if rescale else None


def modes_bytes(config: LinkCodecConfig, samples: int, skipped: int) -> int:
    """Size of a batch's mode map with so many skipped tokens; none where all samples are treated alike."""
    if config.gate in ("always", "never"):
        return 0
    return (samples + 7) // 8 + (GAIN_BYTES * skipped if config.rescale else 0)
