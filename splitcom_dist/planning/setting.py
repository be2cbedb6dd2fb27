"""What a plan is made for, from the configuration and a profile that fits it."""

from pathlib import Path

from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.models.sources import find_model
from splitcom_dist.plan.cluster import read
from splitcom_dist.plan.rounds import fit, load
from splitcom_dist.planning.estimate import Setting
from splitcom_dist.planning.scope import check_planned
from splitcom_dist.schedule import schedule_for
from splitcom_dist.shards import check_length, training_shards


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
    source = find_model(config.model.name, config.model.dropout)
    check_length(config, source)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    return Setting(config, source, layout, schedule, shards, profile, fit(load()))
