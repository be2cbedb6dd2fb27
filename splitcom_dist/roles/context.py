"""What every role is given: its place, the schedule, the model's size and its books."""

from dataclasses import dataclass

import torch

from splitcom_dist.codec.labels import max_label_bytes
from splitcom_dist.codec.modes import modes_bytes
from splitcom_dist.codec.quantize import QUANTIZERS
from splitcom_dist.codec.wire import FRESH, MANIFEST_BYTES, RESYNC, Expected, Visit
from splitcom_dist.config import Config, LinkCodecConfig, head_trains
from splitcom_dist.links import LINK_CODES, LINKS, STANDARD, links_of
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

    def seed_of(self, client: int, link: str) -> int:
        """Of the random projection of one client's link."""
        return (self.config.train.seed * 1_000_003 + client) * len(LINKS) + LINK_CODES[link]

    @property
    def head_trains(self) -> bool:
        return head_trains(self.config)

    @property
    def links(self) -> tuple[str, ...]:
        """The links of the run's shape, in the order of a step."""
        return links_of(self.config.model.tail_layers)

    def expected(self, link: str, peer: str, client: int, step: int, visit: Visit | None) -> Expected:
        """Limits of a packet: that of the batch at hand, or for the first of a step (None) of the largest batch."""
        samples = len(visit.samples) if visit else self.config.train.batch_size
        tokens = visit.tokens if visit else samples * (self.config.data.max_length - 1)
        codec: LinkCodecConfig = getattr(self.config.codec, link)
        opens, labelled = link == self.links[0], self.links == STANDARD
        return Expected(
            peer,
            LINK_CODES[link],
            step,
            client,
            samples,
            tokens,
            (
                MANIFEST_BYTES * samples if opens else 0,
                max_label_bytes(samples, tokens, self.source.vocabulary) if opens and labelled else 0,
                modes_bytes(codec, samples, tokens),
                *(self._rows(codec, tokens) if codec.gate != "never" else (0, 0)),
            ),
            max_targets=tokens if link == "up_gradient" else 0,
            flags=0 if opens else FRESH | (RESYNC if link == self.links[1] else 0),
            intra_bytes=self._rows(codec, 1),
        )

    def _rows(self, codec: LinkCodecConfig, tokens: int) -> tuple[int, int]:
        """Bytes of scales and symbols of so many I positions."""
        quantizer = QUANTIZERS[codec.quantizer](self.dtype)
        return quantizer.scale_bytes(tokens), quantizer.symbol_bytes(tokens, self.width)
