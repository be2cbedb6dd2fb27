"""Frozen weights that take in what clients have learnt: every average is merged, and new factors begin at zero.

FLoRA (arXiv 2409.05976), algorithm 1: W = W + alpha / r B A with the clients' factors stacked. What is merged is the
exact mean of their products, at any rank, but for the rounding of float32.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from splitcom_dist.aggregate.factors import Factors
from splitcom_dist.errors import UserError
from splitcom_dist.models.lora import flatten, fresh_a
from splitcom_dist.state import State


class MergedWeights:
    """The weights (out, in) below adapters, as they are by now; as the models hold them, where Conv1D is transposed.

    Kept in float32, so that changes add up that bfloat16 would round away: with that `model.dtype` 4 bytes an element
    more than the models hold, else nothing more.
    """

    def __init__(self, models: Iterable[nn.Module], trained: Sequence[nn.Parameter], seed: int) -> None:
        """`trained` are the A's and B's of these models in turn. Raises UserError where an adapted layer has no weight
        of its own that a product could join."""
        models = list(models)
        adapted = {
            id(layer.lora_A["default"].weight): (name, layer)
            for model in models
            for name, layer in model.named_modules()
            if isinstance(layer, LoraLayer) and "default" in layer.lora_A
        }
        if any(id(a) not in adapted for a in trained[::2]):
            raise UserError(
                "fed.rank_aggregation=stack: merges into linear layers only; leave embeddings out of "
                "lora.target_modules or set fed.rank_aggregation=svd"
            )
        self._layers = dict(adapted[id(a)] for a in trained[::2])
        for name, layer in self._layers.items():
            owners = {id(module) for model in models for module in model.modules() if _weight(layer) is _own(module)}
            if len(owners) > 1:
                raise UserError(
                    f"fed.rank_aggregation=stack: the weight of {name} is another layer's too (tied), which a merged "
                    "change would reach; leave it out of lora.target_modules or set fed.rank_aggregation=svd"
                )
        self._shapes = [parameter.shape for parameter in trained]
        self._seed = seed
        self._exact: dict[str, Tensor] = {}  # float32; of layers that have been merged into

    def merge(self, stacked: Sequence[Factors], step: int) -> Tensor:
        """Add the products of an averaging after `step` to the weights.

        Returns the adapters (n,) to go on from: A's drawn anew from the seed and the step, of which a client of a lower
        rank has the first rows, and B's of zeros.
        """
        for (name, layer), factors in zip(self._layers.items(), stacked, strict=True):
            exact = self._exact.get(name, _weight(layer).data.float())
            change = layer.scaling["default"] * factors.product.to(exact.device)
            self._put(name, exact + (change.T if layer.fan_in_fan_out else change))
        return self._fresh(step)

    @property
    def values(self) -> Tensor:
        """All weights, one float32 vector (n,) in host memory."""
        return flatten([self._exact.get(name, _weight(layer)) for name, layer in self._layers.items()])

    def changes(self, models: Iterable[nn.Module]) -> dict[str, tuple[Tensor, float]]:
        """By layer what has been merged into it (out, in), float64, and the weight's own precision: singular values
        below it are rounding. `models` are as these were before training, without adapters."""
        before = dict(module for model in models for module in model.named_modules())
        found = {}
        for name, exact in self._exact.items():
            weight = exact.double().cpu()
            change = weight - cast(Tensor, before[name].weight).double()
            precision = torch.finfo(torch.float32).eps * float(weight.norm()) / min(weight.shape) ** 0.5
            found[name] = (change.T if self._layers[name].fan_in_fan_out else change, precision)
        return found

    def state(self) -> State:
        """The weights that have been merged into, whole: they change everywhere in every round."""
        return self._exact

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, exact in state.items():
            self._put(name, exact.to(_weight(self._layers[name]).device, copy=True))

    def _fresh(self, step: int) -> Tensor:
        names = [name for name in self._layers for _ in range(2)]
        return flatten(
            [
                torch.zeros(shape) if index % 2 else fresh_a(shape, f"{self._seed} {name} {step}")
                for index, (name, shape) in enumerate(zip(names, self._shapes, strict=True))
            ]
        )

    def _put(self, name: str, exact: Tensor) -> None:
        weight = _weight(self._layers[name])
        self._exact[name] = exact
        weight.data = exact.to(weight.dtype)  # the same tensor, if that is float32


def _weight(layer: LoraLayer) -> nn.Parameter:
    return cast(nn.Parameter, layer.get_base_layer().weight)


def _own(module: nn.Module) -> object:
    return module._parameters.get("weight")
