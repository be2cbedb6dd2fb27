"""Which runs can be profiled and planned: whole servers in the standard shape, at the speed that their ranks have."""

from splitcom_dist.config import Config
from splitcom_dist.errors import UserError


def check_planned(config: Config) -> None:
    """Raise UserError, with the mend, for a run that is not among them."""
    if config.model.tail_layers:
        raise UserError("model.tail_layers: only the standard shape is planned, set model.tail_layers=0")
    if config.roles.server_shards > 1:
        raise UserError("roles.server_shards: only whole servers are planned, set roles.server_shards=1")
    if config.fed.speed.dist != "none" or config.fed.straggler != "wait":
        raise UserError("fed.speed, fed.straggler: emulated and late clients are not planned, leave both as they were")
