"""One logical client: its samples, adapter, optimizer and codec ends. Several may live on one rank."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from splitcom_dist.codec.labels import LabelSender
from splitcom_dist.codec.manifest import pack_manifest
from splitcom_dist.codec.prefix import PrefixTree
from splitcom_dist.codec.visit import Visit
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.lora import flatten, unflatten_into
from splitcom_dist.roles.flows.ends import close_all
from splitcom_dist.roles.flows.incoming import Incoming
from splitcom_dist.roles.flows.outgoing import Outgoing
from splitcom_dist.state import State, Stateful, gathered, spread
from splitcom_dist.training import AdapterOptimizer


class LogicalClient:
    """What belongs to one client and lives from step to step; `parameters` are the adapters it trains."""

    def __init__(
        self,
        number: int,
        samples: Sequence[Sample],
        parameters: Sequence[nn.Parameter],
        optimizer: AdapterOptimizer,
        outgoing: Mapping[str, Outgoing],
        incoming: Mapping[str, Incoming],
        labels: LabelSender | None,  # None in the U-shape: they stay here
        tree: PrefixTree | None,  # None where no codec keeps references by position
    ) -> None:
        self.id = number
        self.samples = samples
        self.optimizer = optimizer
        self.outgoing = outgoing
        self.incoming = incoming
        self.labels = labels
        self.tree = tree
        self.adapter: list[Tensor] = [parameter.data.clone() for parameter in parameters]
        self._parameters = list(parameters)

    @property
    def elements(self) -> int:
        """Of its adapter."""
        return sum(tensor.numel() for tensor in self.adapter)

    def visit(self, samples: Sequence[Sample]) -> Visit:
        """A batch as the links name it."""
        paths = None
        if self.tree is not None:
            paths = self.tree.paths([sample.id for sample in samples], [sample.tokens for sample in samples])
        lengths = torch.tensor([len(sample.tokens) - 1 for sample in samples])
        return Visit([sample.id for sample in samples], lengths, paths)

    def introduce(self, visit: Visit, targets: list[Tensor]) -> dict[str, Tensor]:
        """The sections that name a batch to the server; in the standard shape with the labels it has not had."""
        news = self.tree.news() if self.tree else {}
        sections = {"manifest": torch.from_numpy(pack_manifest(visit.samples, visit.lengths.tolist(), news))}
        return sections if self.labels is None else sections | {"labels": self.labels.pack(visit.samples, targets)}

    def enter(self) -> None:
        """Put this client's adapter into the rank's blocks: their parameters now stand on this client's storage."""
        for parameter, tensor in zip(self._parameters, self.adapter, strict=True):
            parameter.data = tensor

    def rest(self) -> None:
        """A step in which this client's adapters do not train: its learning rate falls as in any other."""
        self.optimizer.rest()

    def step(self, targets: int) -> None:
        """Step on the mean loss; until here gradients are those of the sum over so many targets."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= targets
        self.optimizer.step()

    def state(self) -> State:
        """Everything but the samples: they are read anew."""
        return {**gathered(self._memory), "adapter": flatten(self.adapter)}

    def load(self, state: State) -> None:
        """Go on as the client that gave `state`."""
        spread(state, self._memory)
        unflatten_into(state["adapter"], self.adapter)

    def close(self) -> None:
        """Give up the files of its references."""
        close_all(self.outgoing, self.incoming)

    @property
    def _memory(self) -> dict[str, Stateful]:
        kept = {"labels": self.labels, "tree": self.tree}
        return {
            "optimizer": self.optimizer,
            **self.outgoing,
            **self.incoming,
            **{name: part for name, part in kept.items() if part is not None},
        }

    def forget_sent(self) -> None:
        """Start the first link afresh: the server's references are not what this client thought.

        Keys are assigned anew too, so nothing that was kept by key is left at either end.
        """
        self.outgoing["up_activation"].encoder.store.clear()
        if self.tree is not None:
            self.tree.clear()
            if "down_activation" in self.incoming:
                self.incoming["down_activation"].decoder.store.clear()
        if self.labels is not None:
            self.labels.clear()
