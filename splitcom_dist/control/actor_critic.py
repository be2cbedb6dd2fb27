"""Deep deterministic policy gradient for a small continuous action (Lillicrap et al., arXiv 1509.02971, algorithm 1).

Everything random comes from one generator of its own, so that a seed gives the same run whatever else draws numbers.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 64
CAPACITY = 4096  # transitions in the replay; the oldest go first
BATCH = 32
TARGET_RATE = 0.005  # tau of the target networks, a gradient step
ACTOR_LR, CRITIC_LR = 1e-3, 3e-3
PULL = 0.15  # of the Ornstein-Uhlenbeck noise to zero, a decision


@dataclass(frozen=True)
class AgentSettings:
    states: int  # size of a state
    actions: int  # size of an action, each in [-1, 1]
    discount: float
    noise: float
    noise_decay: float
    updates: int  # gradient steps a transition


class Agent:
    """Actor, critic, their targets, replay and exploration noise."""

    def __init__(self, settings: AgentSettings, seed: int) -> None:
        self.settings = settings
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = _mlp(settings.states, settings.actions)
            self.critic = _mlp(settings.states + settings.actions, 1)
        for parameter in self.actor[-1].parameters():
            parameter.data.mul_(0.01)  # begin in the middle of the range, whatever the state
        self._actor_target, self._critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), ACTOR_LR)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), CRITIC_LR)
        self._replay = torch.zeros(CAPACITY, 2 * settings.states + settings.actions + 1)
        self.remembered = 0
        self._noise = torch.zeros(settings.actions)
        self._scale = settings.noise

    @torch.no_grad()
    def act(self, state: Tensor, *, explore: bool = True) -> Tensor:
        """State (s,) -> action (a,) in [-1, 1]."""
        action = torch.tanh(self.actor(state))
        if explore:
            step = self._scale * torch.randn(self._noise.shape, generator=self._generator)
            self._noise = (1 - PULL) * self._noise + step
            self._scale *= self.settings.noise_decay
            action = (action + self._noise).clamp(-1, 1)
        return action

    def learn(self, state: Tensor, action: Tensor, reward: float, following: Tensor) -> None:
        """Remember one transition and take the configured number of gradient steps."""
        self._replay[self.remembered % CAPACITY] = torch.cat([state, action, torch.tensor([reward]), following])
        self.remembered += 1
        for _ in range(self.settings.updates if self.remembered >= BATCH else 0):
            rows = torch.randint(min(self.remembered, CAPACITY), (BATCH,), generator=self._generator)
            self._update(self._replay[rows])

    def _update(self, batch: Tensor) -> None:
        sizes = [self.settings.states, self.settings.actions, 1, self.settings.states]
        state, action, reward, following = batch.split(sizes, dim=1)
        with torch.no_grad():
            after = torch.cat([following, torch.tanh(self._actor_target(following))], dim=1)
            value = reward + self.settings.discount * self._critic_target(after)
        self._critic_steps.zero_grad()
        functional.mse_loss(self.critic(torch.cat([state, action], dim=1)), value).backward()
        self._critic_steps.step()
        self._actor_steps.zero_grad()
        chosen = torch.cat([state, torch.tanh(self.actor(state))], dim=1)
        (-self.critic(chosen).mean()).backward()
        self._actor_steps.step()
        for target, source in ((self._actor_target, self.actor), (self._critic_target, self.critic)):
            for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
                slow.data.lerp_(fast.data, TARGET_RATE)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `load` needs to go on exactly here, by name."""
        named = {
            f"{part}.{name}": tensor for part, network in self._networks.items() for name, tensor in network.items()
        }
        for part, optimizer in (("actor_steps", self._actor_steps), ("critic_steps", self._critic_steps)):
            for index, moments in optimizer.state_dict()["state"].items():
                named |= {f"{part}.{index}.{name}": tensor for name, tensor in moments.items()}
        return named | {
            "replay": self._replay[: min(self.remembered, CAPACITY)],
            "remembered": torch.tensor(self.remembered),
            "noise": self._noise,
            "scale": torch.tensor(self._scale, dtype=torch.float64),
            "generator": self._generator.get_state(),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave. Raises KeyError or RuntimeError if it is another agent's."""
        for part, network in self._networks.items():
            for name, tensor in network.items():
                tensor.copy_(tensors[f"{part}.{name}"])
        for part, optimizer in (("actor_steps", self._actor_steps), ("critic_steps", self._critic_steps)):
            state = optimizer.state_dict()
            keys = [key.split(".") for key in tensors if key.startswith(f"{part}.")]
            state["state"] = {int(index): {} for _, index, _ in keys}
            for _, index, name in keys:
                state["state"][int(index)][name] = tensors[f"{part}.{index}.{name}"].clone()
            optimizer.load_state_dict(state)
        self._replay[: len(tensors["replay"])] = tensors["replay"]
        self.remembered = int(tensors["remembered"])
        self._noise = tensors["noise"].clone()
        self._scale = float(tensors["scale"])
        self._generator.set_state(tensors["generator"])

    @property
    def _networks(self) -> dict[str, dict[str, Tensor]]:
        networks = {
            "actor": self.actor,
            "critic": self.critic,
            "actor_target": self._actor_target,
            "critic_target": self._critic_target,
        }
        return {name: network.state_dict() for name, network in networks.items()}


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )
