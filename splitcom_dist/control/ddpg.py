"""The DDPG controller: thresholds learnt from what they did to loss and bytes.

SplitCom's reward mixes loss and bytes; states, actions and weights below are our reconstruction.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from splitcom_dist.config.implied import bounds_of, gated_links
from splitcom_dist.config.schema import Bounds, Config
from splitcom_dist.control.actor_critic import Agent, AgentSettings
from splitcom_dist.control.controller import Decision, LinkUse, Observation
from splitcom_dist.errors import UserError
from splitcom_dist.state import State, facts, part_of, read_facts

CLOSEST = 1e-6  # 1 - theta at least: its logarithm must exist


class Ddpg:
    """One action a decision, an element in [-1, 1] for every gated link.

    State: progress, loss over the first loss, change of the loss, and for every link its last action and its ratio of
    wire bytes to raw bytes. Action: theta between the link's bounds, on a logarithmic scale of 1 - theta. Reward:
    -quality_weight x change of the loss in nats - the mean of these ratios.
    """

    name = "ddpg"

    def __init__(self, config: Config) -> None:
        self._settings = settings = config.control.ddpg
        self._bounds = {link: bounds_of(config, link) for link in gated_links(config)}
        links = len(self._bounds)
        self.agent = Agent(
            AgentSettings(
                3 + 2 * links, links, settings.discount, settings.noise, settings.noise_decay, settings.updates
            ),
            config.train.seed,
        )
        if settings.load is not None:
            self._load(Path(settings.load))
        self._first_loss = self._loss = math.nan
        self._taken: tuple[Tensor, Tensor] | None = None  # last state and action

    def decide(self, observation: Observation) -> list[Decision]:
        """Learn from the last action, then act."""
        state, ratios, seen = self._learn(observation)
        action = self.agent.act(state)
        self._taken = state, action
        return [
            Decision(
                link,
                threshold(float(element), bounds),
                f"action {float(element):+.3f} after {self.agent.remembered} transitions",
                seen | {"ratio": ratio},
            )
            for element, ratio, (link, bounds) in zip(action, ratios, self._bounds.items(), strict=True)
        ]

    def follow(self, observation: Observation, thetas: Mapping[str, float]) -> None:
        """Learn from the last action, then take thresholds that another has decided for ours."""
        state, _, _ = self._learn(observation)
        self._taken = state, torch.tensor([action_of(thetas[link], bounds) for link, bounds in self._bounds.items()])

    def _learn(self, observation: Observation) -> tuple[Tensor, list[float], dict[str, float]]:
        """The state, the links' ratios, and what is told of a decision taken in it."""
        loss = observation.train_loss if self._settings.every == "round" else observation.validation_loss
        rise = 0.0
        if loss is not None:
            rise = 0.0 if math.isnan(self._loss) else loss - self._loss
            self._loss = loss
            self._first_loss = loss if math.isnan(self._first_loss) else self._first_loss
        ratios = [observation.use.get(link, LinkUse()).ratio for link in self._bounds]
        last = self._taken[1] if self._taken else torch.zeros(len(ratios))
        relative = 1.0 if math.isnan(self._loss) else self._loss / self._first_loss
        state = torch.tensor([observation.progress, relative, rise, *ratios, *last.tolist()])
        reward = -self._settings.quality_weight * rise - sum(ratios) / len(ratios)
        # In the first epoch every sample is sent whatever the threshold: nothing to learn from.
        if self._taken is not None and observation.epoch >= 1:
            self.agent.learn(*self._taken, reward, state)
        return state, ratios, {"progress": observation.progress, "loss": self._loss, "rise": rise, "reward": reward}

    def checkpoint(self) -> dict[str, Tensor]:
        return self.agent.tensors()

    def state(self) -> State:
        last = {} if self._taken is None else {"last.state": self._taken[0], "last.action": self._taken[1]}
        losses = facts({"first": self._first_loss, "last": self._loss})
        return {f"agent.{name}": part for name, part in self.agent.tensors().items()} | last | {"losses": losses}

    def load(self, state: State) -> None:
        self.agent.load(part_of(state, "agent"))
        losses, last = read_facts(state["losses"]), part_of(state, "last")
        self._first_loss, self._loss = losses["first"], losses["last"]
        self._taken = (last["state"].clone(), last["action"].clone()) if last else None

    def _load(self, path: Path) -> None:
        try:
            self.agent.load(load_file(path))
        except FileNotFoundError:
            raise UserError(f"control.ddpg.load={path}: no such file; a run keeps its own in checkpoints/") from None
        except (SafetensorError, KeyError, RuntimeError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"control.ddpg.load={path}: not an agent for {len(self._bounds)} gated links: {reason}"
            ) from None


def threshold(action: float, bounds: Bounds) -> float:
    """Action in [-1, 1] -> theta between the bounds; equal steps of the action are equal factors of 1 - theta."""
    low, high = (math.log(max(1 - bound, CLOSEST)) for bound in (bounds.low, bounds.high))
    return 1 - math.exp(low + (high - low) * (action + 1) / 2)


def action_of(theta: float, bounds: Bounds) -> float:
    """The action whose threshold is the nearest to theta."""
    low, high = (math.log(max(1 - bound, CLOSEST)) for bound in (bounds.low, bounds.high))
    place = (math.log(max(1 - theta, CLOSEST)) - low) / (high - low) if high != low else 0.5
    return min(1.0, max(-1.0, 2 * place - 1))
