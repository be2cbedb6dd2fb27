"""Which controller a run has, and when it decides."""

from collections.abc import Callable

from splitcom_dist.config.ranges import add_choice
from splitcom_dist.config.schema import Config
from splitcom_dist.control.bang_bang import BangBang
from splitcom_dist.control.byte_budget import ByteBudget
from splitcom_dist.control.controller import Controller
from splitcom_dist.control.ddpg import Ddpg
from splitcom_dist.control.fixed import Fixed

CONTROLLERS: dict[str, Callable[[Config], Controller]] = {
    "fixed": Fixed,
    "bang_bang": BangBang,
    "ddpg": Ddpg,
    "byte_budget": ByteBudget,
}
BY_ROUNDS = {"byte_budget"}


def register_controller(name: str, make: Callable[[Config], Controller], *, by_rounds: bool = False) -> None:
    """Let `control.name` be `name`. Its settings are `control.options`.

    It decides after every evaluation; with `by_rounds` after every averaging round too, where an observation has no
    validation loss. Raises UserError if there is a controller of that name.
    """
    add_choice("control.name", name)
    CONTROLLERS[name] = make
    if by_rounds:
        BY_ROUNDS.add(name)


def make_controller(config: Config) -> Controller:
    """The controller of the run. Raises UserError where it cannot load what it should."""
    return CONTROLLERS[config.control.name](config)


def decides_by_rounds(config: Config) -> bool:
    """Whether it decides after every round, not only after evaluations."""
    control = config.control
    return control.name in BY_ROUNDS or (control.name == "ddpg" and control.ddpg.every == "round")
