"""DDPG learns the known optimum of a small environment, from any of five seeds."""

import math

import pytest
import torch
from torch import Tensor

from splitcom_dist.control.actor_critic import Agent, AgentSettings

EPISODE = 20
SETTINGS = AgentSettings(states=3, actions=2, discount=0.8, noise=0.3, noise_decay=0.995, updates=12)


def best(state: Tensor) -> Tensor:
    """The optimal action: early in an episode send little, late send much, and the other link the other way."""
    wanted = 1.2 * float(state[0]) - 0.6
    return torch.tensor([wanted, -wanted])


class Link:
    """Reward 1 at the optimum, falling off as a Gaussian of width 0.35; the last action is part of the state."""

    def __init__(self) -> None:
        self.state = torch.zeros(3)

    def step(self, action: Tensor) -> tuple[float, Tensor]:
        distance = float((action - best(self.state)).square().sum())
        progress = (float(self.state[0]) + 1 / EPISODE) % 1.0
        self.state = torch.tensor([progress, *action.tolist()])
        return math.exp(-distance / (2 * 0.35**2)), self.state


def episode(agent: Agent) -> float:
    """Return of one episode without exploration, relative to the optimum's."""
    link = Link()
    return sum(link.step(agent.act(link.state, explore=False))[0] for _ in range(EPISODE)) / EPISODE


@pytest.mark.parametrize("seed", range(5))
def test_ddpg_reaches_ninety_percent_of_the_optimum(seed: int) -> None:
    torch.set_num_threads(1)
    agent, link = Agent(SETTINGS, seed), Link()
    untrained = episode(agent)
    for _ in range(20 * EPISODE):
        state = link.state
        action = agent.act(state)
        reward, following = link.step(action)
        agent.learn(state, action, reward, following)
    assert untrained < 0.75, "the environment must not reward what has not been learnt"
    assert episode(agent) >= 0.9


def test_the_noise_fades_and_a_seed_gives_the_same_agent() -> None:
    state = torch.rand(3)
    one, two = Agent(SETTINGS, 7), Agent(SETTINGS, 7)
    torch.rand(5)  # what else draws numbers does not matter
    actions = [one.act(state) for _ in range(2000)]
    assert all(torch.equal(action, two.act(state)) for action in actions)
    spread = [float(torch.stack(part).std(dim=0).mean()) for part in (actions[:200], actions[-200:])]
    assert spread[0] > 0.2 and spread[1] < 0.01


def test_the_oldest_transitions_leave_the_replay() -> None:
    from splitcom_dist.control import actor_critic

    agent = Agent(AgentSettings(1, 1, 0.9, 0.0, 1.0, updates=0), seed=0)
    for index in range(actor_critic.CAPACITY + 2):
        agent.learn(torch.tensor([float(index)]), torch.zeros(1), 0.0, torch.zeros(1))
    replay = agent.tensors()["replay"]
    assert len(replay) == actor_critic.CAPACITY
    assert replay[:, 0].min() == 2 and replay[:, 0].max() == actor_critic.CAPACITY + 1
