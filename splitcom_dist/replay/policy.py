"""A DDPG policy from logs: first from what the runs' own controllers did, then from replays in which it acts."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from splitcom_dist.config.implied import gated_links
from splitcom_dist.config.schema import Config
from splitcom_dist.control.actor_critic import Agent
from splitcom_dist.control.controller import Decision, Observation
from splitcom_dist.control.ddpg import Ddpg
from splitcom_dist.errors import UserError
from splitcom_dist.replay.play import AsLogged, StalePrice, play
from splitcom_dist.replay.recording import Recording


class Following:
    """Decides as the run did, and lets `learner` learn from it: there the loss did respond."""

    def __init__(self, recording: Recording, learner: Ddpg) -> None:
        self._logged = AsLogged(recording.logs)
        self._learner = learner

    def decide(self, observation: Observation) -> list[Decision]:
        """What the run had decided by then."""
        decisions = self._logged.decide(observation)
        self._learner.follow(observation, {decision.link: decision.theta for decision in decisions})
        return decisions


def train_policy(
    recordings: Sequence[Recording], configs: Sequence[Config], episodes: int, nats: float = 0.0
) -> Mapping[str, Tensor]:
    """What `control.ddpg.load` takes: networks, transitions, and exploration as far as it has calmed down.

    One configuration a recording; `nats` is a StalePrice. Raises UserError if they have not all the same gated links.
    """
    links = {tuple(gated_links(config)) for config in configs}
    if len(links) > 1:
        raise UserError(
            "--train: one policy moves the same links in every run, these have different ones: "
            + " and ".join(sorted(", ".join(each) for each in links))
        )
    agent = Ddpg(configs[0]).agent
    pairs = list(zip(recordings, configs, strict=True))
    prices = [StalePrice(recording, nats) if nats else None for recording in recordings]
    for recording, config in pairs:
        if gated_links(recording.logs.config) == gated_links(config):
            play(recording, config, Following(recording, _with(agent, config)))
    for _ in range(episodes):
        for (recording, config), price in zip(pairs, prices, strict=True):
            play(recording, config, _with(agent, config), price=price)
    return agent.tensors()


def _with(agent: Agent, config: Config) -> Ddpg:
    """A controller at the beginning of a run, with what the agent has learnt."""
    controller = Ddpg(config)
    controller.agent = agent
    return controller
