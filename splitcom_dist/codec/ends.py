"""Which encoder and decoder a link's configuration asks for."""

from pathlib import Path

import torch

from splitcom_dist.codec.frames import Decoder, Encoder
from splitcom_dist.codec.gated.ends import GatedDecoder, GatedEncoder
from splitcom_dist.codec.residence import ON_HOST, Residence
from splitcom_dist.codec.rivals.delta import DeltaDecoder, DeltaEncoder
from splitcom_dist.codec.rivals.matrices import MATRIX_QUANTIZERS
from splitcom_dist.codec.video.decoder import VideoDecoder
from splitcom_dist.codec.video.encoder import VideoEncoder
from splitcom_dist.codec.video.gradients import SampledDecoder, SampledEncoder
from splitcom_dist.config.schema import LinkCodecConfig


def make_encoder(
    config: LinkCodecConfig,
    width: int,
    dtype: torch.dtype,
    seed: int,
    folder: Path | None = None,
    residence: Residence = ON_HOST,
) -> Encoder:
    """The sending end for rows of `width` elements; `seed` fixes what is random about this client's link.

    `folder` is where references go that are kept on disk. The `residence` is that of `residence_of`.
    """
    if config.gate == "error":
        return VideoEncoder(config, width, dtype, folder if config.store == "disk" else None)
    if config.gate == "sampled":
        return SampledEncoder(config, width, dtype, seed)
    if config.quantizer in MATRIX_QUANTIZERS:
        return DeltaEncoder(config, width, dtype, seed)
    return GatedEncoder(config, width, dtype, seed, residence)


def make_decoder(
    config: LinkCodecConfig,
    width: int,
    dtype: torch.dtype,
    folder: Path | None = None,
    residence: Residence = ON_HOST,
) -> Decoder:
    """The receiving end."""
    if config.gate == "error":
        return VideoDecoder(config, width, dtype, folder if config.store == "disk" else None)
    if config.gate == "sampled":
        return SampledDecoder(config, width, dtype)
    if config.quantizer in MATRIX_QUANTIZERS:
        return DeltaDecoder(config, width, dtype)
    return GatedDecoder(config, width, dtype, residence)
