"""The settings that a replay compares: every gate with every threshold, then with every controller."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.config.checks import validate
from splitcom_dist.config.files import load_config
from splitcom_dist.config.implied import gated_links
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError
from splitcom_dist.links import links_of

GATES = ("cosine", "always")
CONTROLLERS = ("fixed", "bang_bang", "ddpg", "byte_budget")
CHANGED = ("codec", "control")


@dataclass(frozen=True)
class Setting:
    name: str
    config: Config


def load_changed(run: Path, overrides: Sequence[str]) -> Config:
    """The configuration of a run, its codec and controller changed. Raises UserError for any other key."""
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] not in CHANGED:
            raise UserError(f"{text}: a replay does not train; it can change codec and control alone")
    return load_config([run / "config.yaml"], overrides)


@dataclass(frozen=True)
class Choices:
    """What is asked for: every gate with every threshold and with every controller. Raises UserError for unknown ones.

    A threshold is `0.98` for all links, or `0.98/0.9`: of activations, and of gradients.
    """

    gates: Sequence[str]
    thetas: Sequence[str]
    controllers: Sequence[str]

    def __post_init__(self) -> None:
        _check_known("--gate", self.gates, GATES)
        _check_known("--controller", self.controllers, CONTROLLERS)

    def settings(self, config: Config, policy: Path | None = None) -> list[Setting]:
        """The configurations to play; without any choice the one given. `policy` is a trained one to play too."""
        found = []
        for gate in self.gates or [""]:
            gated = _with_gate(config, gate) if gate else config
            if gate == "always":
                found.append(_setting("always", gated, "fixed"))
                continue
            thetas, controllers = self.thetas, self.controllers
            if not gated_links(gated) and (thetas or controllers or policy is not None):
                raise UserError(f"no gate in codec={config.codec.name}: nothing has a threshold; add --gate cosine")
            if not thetas and not controllers and policy is None:
                controllers = [gated.control.name]
            found += [_setting(f"theta {theta}", _with_theta(gated, theta), "fixed") for theta in thetas]
            found += [_setting(controller, gated, controller) for controller in controllers]
            if policy is not None:
                found.append(_setting("ddpg, trained", _with_policy(gated, policy), "ddpg"))
        return found

    def learner(self, config: Config) -> Config:
        """The configuration to train a policy in."""
        return _setting("", _with_gate(config, "cosine") if "cosine" in self.gates else config, "ddpg").config


def names(option: str, text: str | None) -> list[str]:
    """A list with commas; empty where it is not given."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if "" in parts:
        raise UserError(f"{option} {text}: values separated by commas, none of them empty")
    return parts


def _setting(name: str, config: Config, controller: str) -> Setting:
    config = copy.deepcopy(config)
    config.control.name = controller
    validate(config)
    return Setting(name, config)


def _with_gate(config: Config, gate: str) -> Config:
    """The links by sample, gated so; the others are as they were."""
    config = copy.deepcopy(config)
    for link in links_of(config.model.tail_layers):
        codec = getattr(config.codec, link)
        if codec.gate in GATES:
            codec.gate = gate
            codec.rescale = codec.rescale and gate == "cosine"
    return config


def _with_theta(config: Config, text: str) -> Config:
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or not all(-1 <= part <= 1 for part in parts):
        raise UserError(f"--theta {text}: a cosine such as 0.98, or 0.98/0.9 for activations/gradients")
    config = copy.deepcopy(config)
    for link in gated_links(config):
        getattr(config.codec, link).theta = parts[0] if link.endswith("activation") else parts[-1]
    return config


def _with_policy(config: Config, policy: Path) -> Config:
    config = copy.deepcopy(config)
    config.control.ddpg.load = str(policy)
    return config


def _check_known(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name == "error":
            raise UserError(
                f"{option} error: cannot be replayed: its references are by position, and logs hold samples; "
                "gates that can: cosine, always"
            )
        if name not in known:
            raise UserError(f"{option} {name}: known are {', '.join(known)}")
