"""Which controller a run has, and when it decides."""

from splitcom_dist.config.schema import Config
from splitcom_dist.control.bang_bang import BangBang
from splitcom_dist.control.byte_budget import ByteBudget
from splitcom_dist.control.controller import Controller
from splitcom_dist.control.ddpg import Ddpg
from splitcom_dist.control.fixed import Fixed


def make_controller(config: Config) -> Controller:
    """The controller of the run. Raises UserError where it cannot load what it should."""
    if config.control.name == "bang_bang":
        return BangBang(config)
    if config.control.name == "ddpg":
        return Ddpg(config)
    if config.control.name == "byte_budget":
        return ByteBudget(config)
    return Fixed(config)


def decides_by_rounds(config: Config) -> bool:
    """Whether it decides after every round, not only after evaluations."""
    control = config.control
    return control.name == "byte_budget" or (control.name == "ddpg" and control.ddpg.every == "round")
