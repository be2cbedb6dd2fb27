"""The packets of one link, and what they weigh when other samples of them are sent."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from splitcom_dist.codec.gated.modes import modes_bytes
from splitcom_dist.codec.header import HEADER
from splitcom_dist.codec.manifest import max_manifest_bytes
from splitcom_dist.codec.quantize import quantizer_of
from splitcom_dist.config.schema import Config, LinkCodecConfig
from splitcom_dist.links import LINKS
from splitcom_dist.replay.logs import RunLogs


@dataclass(frozen=True)
class Packets:
    """All packets of a link in the order of steps, one value each (P,) int64."""

    link: str
    width: int  # d
    step: np.ndarray
    epoch: np.ndarray
    client: np.ndarray
    tokens: np.ndarray
    samples: np.ndarray
    raw_real: np.ndarray
    wire: np.ndarray  # as it was sent
    sent: np.ndarray  # positions
    fixed: np.ndarray  # bytes that no gate and quantizer changes: header, manifest, labels
    full: np.ndarray  # bool: it has values; the others are headers alone, or nothing

    def between(self, start: int, stop: int) -> "Packets":
        """Those of steps [start, stop)."""
        part = self.places(start, stop)
        arrays = [item.name for item in fields(self) if item.name not in ("link", "width")]
        return replace(self, **{name: getattr(self, name)[part] for name in arrays})

    def places(self, start: int, stop: int) -> slice:
        """Where steps [start, stop) are."""
        return slice(*np.searchsorted(self.step, [start, stop]).tolist())


def packets_of(logs: RunLogs, link: str) -> Packets:
    """The packets of a link, none where it has none."""
    rows = logs.traffic[logs.traffic["link"] == LINKS.index(link)]
    rows = rows[np.argsort(rows["step"], kind="stable")]
    itemsize = getattr(torch, logs.config.telemetry.baseline_dtype).itemsize
    tokens, wire = rows["tokens"].astype(np.int64), rows["wire"]
    width = int(rows["raw_real"].sum()) // max(1, int(tokens.sum()) * itemsize)
    samples = rows["raw_padded"] // max(1, logs.config.data.max_length * width * itemsize)
    sent = rows["n_I"].astype(np.int64) + rows["n_P"] + rows["n_C"]
    codec = getattr(logs.config.codec, link)
    if follows_from_counts(codec):
        fixed = wire - _section_bytes(codec, logs.config, width, samples, sent, tokens - sent)
    else:  # what entropy coding made of the values is not known: the format says the rest
        named = max_manifest_bytes(1) // 2 if link == LINKS[0] else 0
        fixed = HEADER.size + rows["label"] + named * samples
    full = wire > HEADER.size
    columns = {name: rows[name].astype(np.int64) for name in ("step", "epoch", "client", "raw_real")}
    return Packets(link, width, **columns, tokens=tokens, samples=samples, wire=wire, sent=sent, fixed=fixed, full=full)


def wire_bytes(packets: Packets, config: Config, sent: np.ndarray) -> np.ndarray:
    """Bytes of each packet (P,) with the codec of `config`, if so many of its positions (P,) are sent."""
    codec = getattr(config.codec, packets.link)
    sections = _section_bytes(codec, config, packets.width, packets.samples, sent, packets.tokens - sent)
    return np.where(packets.full, packets.fixed + sections, packets.wire)


def follows_from_counts(codec: LinkCodecConfig) -> bool:
    """Whether the number of positions sent says how large a packet is."""
    by_sample = codec.gate in ("always", "cosine") and codec.predictor == "none"
    return by_sample and codec.quantizer in ("none", "fp16", "int8", "tiles")


def _section_bytes(
    codec: LinkCodecConfig, config: Config, width: int, samples: np.ndarray, sent: np.ndarray, skipped: np.ndarray
) -> np.ndarray:
    quantizer = quantizer_of(codec, getattr(torch, config.model.dtype))
    position = quantizer.scale_bytes(1) + quantizer.symbol_bytes(1, width)
    pairs = zip(samples.tolist(), skipped.tolist(), strict=True)
    maps = np.array([modes_bytes(codec, count, left_out) for count, left_out in pairs], np.int64)
    return np.asarray(maps + sent * position)
