"""What every role is given: its place, the schedule, the model's size and its books."""

from dataclasses import dataclass

import torch

from splitcom_dist.attendance import Mode
from splitcom_dist.checkpoints.course import Course
from splitcom_dist.codec.frames import Decoder
from splitcom_dist.codec.header import ABSENT, FRESH, RESYNC, Expected
from splitcom_dist.codec.labels import max_label_bytes
from splitcom_dist.codec.manifest import max_manifest_bytes
from splitcom_dist.codec.residence import Residence, residence_of
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.implied import head_trains
from splitcom_dist.config.schema import Config
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.devices import HOST
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
    course: Course
    cuts: Cuts
    device: torch.device = HOST  # of models, adapters, optimizers and batches

    def residence(self, link: str) -> Residence:
        """Where and how the codec of a link computes here, and where its payload lies."""
        config = self.config
        return residence_of(getattr(config.codec, link), self.device, config.transport, config.runtime.compile)

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

    def head_trains(self, step: int) -> bool:
        """Whether a gradient comes down to the heads in this step."""
        return head_trains(self.config) and self.schedule.mode(step) is Mode.TRAIN

    @property
    def links(self) -> tuple[str, ...]:
        """The links of the run's shape, in the order of a step."""
        return links_of(self.config.model.tail_layers)

    def expected(self, link: str, decoder: Decoder, peer: str, client: int, step: int, visit: Visit | None) -> Expected:
        """Limits of a packet: that of the batch at hand, or for the first of a step (None) of the largest batch."""
        samples = len(visit.samples) if visit else self.config.train.batch_size
        tokens = visit.tokens if visit else samples * (self.config.data.max_length - 1)
        opens, labelled = link == self.links[0], self.links == STANDARD
        limits = decoder.limits(samples, tokens)
        may_be_absent = ABSENT if self.config.fed.straggler == "deadline" else 0
        return Expected(
            peer,
            LINK_CODES[link],
            step,
            client,
            samples,
            tokens,
            (
                max_manifest_bytes(samples) if opens else 0,
                max_label_bytes(samples, tokens, self.source.vocabulary) if opens and labelled else 0,
                limits.side,
                limits.modes,
                limits.scales,
                limits.symbols,
            ),
            max_targets=tokens if link == "up_gradient" else 0,
            flags=may_be_absent if opens else FRESH | (RESYNC if link == self.links[1] else 0),
            apart=self.residence(link).apart,
            intra_bytes=limits.intra,
        )
