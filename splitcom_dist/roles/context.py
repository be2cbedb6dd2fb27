"""What every role is given: its place, the schedule, the model's size and its books."""

from dataclasses import dataclass

import torch

from splitcom_dist.codec.codec import modes_bytes
from splitcom_dist.codec.labels import max_label_bytes
from splitcom_dist.codec.quantize import QUANTIZERS
from splitcom_dist.codec.wire import MANIFEST_BYTES, RESYNC, Expected
from splitcom_dist.config import Config, LinkCodecConfig
from splitcom_dist.links import LINK_CODES
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.schedule import Schedule
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.ledger import Ledger
from splitcom_dist.world import World


@dataclass(frozen=True)
class Context:
    config: Config
    world: World
    schedule: Schedule
    source: ModelSource
    log: RankLog
    ledger: Ledger

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return getattr(torch, self.config.model.dtype)  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """d, the size of an activation at the cut."""
        return self.source.hidden_size

    def seed_of(self, client: int) -> int:
        """Of a client's random projection; the same on both ends."""
        return self.config.train.seed * 1_000_003 + client

    @property
    def clients_train(self) -> bool:
        return self.config.codec.down_gradient.gate != "never"

    def expected_activation(self, peer: str, client: int, step: int) -> Expected:
        """Limits of an `up_activation` packet: a full batch of the longest samples, all sent, all labels new."""
        samples = self.config.train.batch_size
        tokens = samples * (self.config.data.max_length - 1)
        codec = self.config.codec.up_activation
        labels = max_label_bytes(samples, tokens, self.source.vocabulary)
        sections = (MANIFEST_BYTES * samples, labels, modes_bytes(codec, samples), *self._rows(codec, tokens))
        link, row = LINK_CODES["up_activation"], self._rows(codec, 1)
        return Expected(peer, link, step, client, samples, tokens, sections, intra_bytes=row)

    def expected_gradient(self, peer: str, client: int, step: int, samples: int, tokens: int) -> Expected:
        """Limits of the `down_gradient` packet that answers a batch of so many samples and tokens."""
        codec = self.config.codec.down_gradient
        sections = (0, 0, 0, *(self._rows(codec, tokens) if self.clients_train else (0, 0)))
        link, row = LINK_CODES["down_gradient"], self._rows(codec, 1)
        return Expected(peer, link, step, client, samples, tokens, sections, flags=RESYNC, intra_bytes=row)

    def _rows(self, codec: LinkCodecConfig, tokens: int) -> tuple[int, int]:
        """Bytes of scales and symbols of so many I positions."""
        quantizer = QUANTIZERS[codec.quantizer](self.dtype)
        return quantizer.scale_bytes(tokens), quantizer.symbol_bytes(tokens, self.width)
