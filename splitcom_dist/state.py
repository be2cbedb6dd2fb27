"""What a part of a run must remember to go on exactly where it was: tensors by dotted name."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from splitcom_dist.devices import to_host

State = Mapping[str, Tensor]


class Stateful(Protocol):
    def state(self) -> State:
        """What `load` needs to go on exactly here; the tensors may be the part's own."""
        ...

    def load(self, state: State) -> None:
        """Go on as the part that gave `state`; keeps no tensor of it. Raises UserError if it is another's."""
        ...


class Stateless:
    """What has nothing to remember."""

    def state(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing to do."""


def gathered(parts: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """The states of all parts, below their names."""
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state().items()}


def spread(state: State, parts: Mapping[str, Stateful]) -> None:
    """Every part goes on from its share of what `gathered` gave."""
    for name, part in parts.items():
        part.load(part_of(state, name))


def part_of(state: State, name: str) -> dict[str, Tensor]:
    """The entries of a state below `name`."""
    return {key.removeprefix(f"{name}."): part for key, part in state.items() if key.startswith(f"{name}.")}


def apart(state: State) -> dict[str, Tensor]:
    """Tensors in storage of their own in host memory: safetensors refuses views of one."""
    return {name: to_host(tensor.detach()).clone().contiguous() for name, tensor in state.items()}


def facts(values: Mapping[str, Any]) -> Tensor:
    """Numbers, texts and lists as one tensor: JSON gives every float back bit for bit."""
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


def read_facts(tensor: Tensor) -> dict[str, Any]:
    """What was given to `facts`."""
    values: dict[str, Any] = json.loads(bytes(tensor.numpy()))
    return values
