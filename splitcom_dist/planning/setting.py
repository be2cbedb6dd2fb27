"""What a plan is made for, from the configuration and a profile that fits it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.config.files import load_config, with_groups
from splitcom_dist.config.schema import Config, ControlConfig
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout, layout_for
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.plan.blocks import ModelShape, model_shape
from splitcom_dist.plan.cluster import Profile, read
from splitcom_dist.plan.rounds import RoundCurve, fit, load
from splitcom_dist.plan.workload import Batch
from splitcom_dist.planning.scope import check_planned
from splitcom_dist.schedule import Schedule, schedule_for
from splitcom_dist.shards import check_length, training_shards


@dataclass(frozen=True)
class Choice:
    cut_layer: int
    rank: int
    codec: str


@dataclass(frozen=True)
class Setting:
    """What is the same for all choices."""

    config: Config
    source: ModelSource
    layout: Layout
    schedule: Schedule
    shards: Mapping[int, Sequence[Sample]]
    profile: Profile
    rounds: RoundCurve

    @property
    def shape(self) -> ModelShape:
        return model_shape(self.source.config)

    @property
    def batch(self) -> Batch:
        return Batch(self.profile.samples, self.profile.length, self.profile.targets)

    def applied(self, choice: Choice) -> Config:
        """The configuration with this choice; alpha keeps its ratio to the rank, and so the adapter its scale. A codec
        that was read from a run comes as it was there, and with its controller."""
        config = self.config
        chosen = copy.deepcopy(config)
        chosen.model.cut_layer, chosen.lora.rank = choice.cut_layer, choice.rank
        chosen.lora.alpha = config.lora.alpha * choice.rank / config.lora.rank
        if choice.codec in self.profile.runs:
            run = self.profile.runs[choice.codec]
            return with_groups(chosen, {"codec": run.codec, "control": run.control})
        chosen.codec = load_config([], [f"codec={choice.codec}"]).codec
        chosen.control = ControlConfig()  # none of these has a threshold to move
        return chosen


def open_setting(config: Config, path: Path) -> Setting:
    """Read everything a plan needs. Raises UserError where the profile is of another run."""
    check_planned(config)
    profile, layout = read(path), layout_for(config)
    again = "run `splitcom profile` with this configuration"
    for key, value, measured in (
        ("model.name", config.model.name, profile.model),
        ("model.dtype", config.model.dtype, profile.dtype),
        ("roles.client_ranks", len(layout.client_ranks), len(profile.of_role("client"))),
        ("roles.server_ranks", len(layout.server_ranks), len(profile.of_role("server"))),
    ):
        if value != measured:
            raise UserError(f"--profile {path}: of a run with {key}={measured}, not {value}; {again}")
    if profile.samples > config.train.batch_size:
        raise UserError(f"--profile {path}: of batches of {profile.samples} samples, train.batch_size is less; {again}")
    if config.train.epochs > 1 and (short := [name for name, run in profile.runs.items() if run.later is None]):
        raise UserError(
            f"--profile {path}: its run of codec {short[0]} had not finished a second epoch, and what later ones send "
            "is not known; read a longer one, or plan with train.epochs=1"
        )
    source = find_model(config.model.name, config.model.dropout)
    check_length(config, source)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    return Setting(config, source, layout, schedule, shards, profile, fit(load()))
