"""One logical client: its samples, adapter, optimizer and codec ends. Several may live on one rank."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from splitcom_dist.codec.labels import LabelSender
from splitcom_dist.data.tokens import Sample
from splitcom_dist.roles.flows import Incoming, Outgoing
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
    ) -> None:
        self.id = number
        self.samples = samples
        self.optimizer = optimizer
        self.outgoing = outgoing
        self.incoming = incoming
        self.labels = labels
        self.weight = 0  # target tokens since the last averaging
        self.adapter: list[Tensor] = [parameter.data.clone() for parameter in parameters]
        self._parameters = list(parameters)

    def enter(self) -> None:
        """Put this client's adapter into the rank's blocks: their parameters now stand on this client's storage."""
        for parameter, tensor in zip(self._parameters, self.adapter, strict=True):
            parameter.data = tensor

    def step(self, targets: int) -> None:
        """Step on the mean loss; until here gradients are those of the sum over so many targets."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= targets
        self.optimizer.step()

    def forget_sent(self) -> None:
        """Start the first link afresh: the server's references are not what this client thought."""
        self.outgoing["up_activation"].encoder.store.clear()
        if self.labels is not None:
            self.labels.clear()
