"""One logical client: its samples, adapter, optimizer and codec ends. Several may live on one rank."""

from collections.abc import Sequence

from torch import Tensor, nn

from splitcom_dist.codec.codec import Decoder, Encoder
from splitcom_dist.codec.labels import LabelSender
from splitcom_dist.data.tokens import Sample
from splitcom_dist.training import AdapterOptimizer


class LogicalClient:
    """What belongs to one client and lives from step to step; `parameters` are the adapters of the rank's head."""

    def __init__(
        self,
        number: int,
        samples: Sequence[Sample],
        parameters: Sequence[nn.Parameter],
        optimizer: AdapterOptimizer,
        encoder: Encoder,
        decoder: Decoder,
        labels: LabelSender,
    ) -> None:
        self.id = number
        self.samples = samples
        self.optimizer = optimizer
        self.encoder = encoder
        self.decoder = decoder
        self.labels = labels
        self.weight = 0  # target tokens since the last averaging
        self.adapter: list[Tensor] = [parameter.data.clone() for parameter in parameters]
        self._parameters = list(parameters)

    def enter(self) -> None:
        """Put this client's adapter into the rank's head: its parameters now stand on this client's storage."""
        for parameter, tensor in zip(self._parameters, self.adapter, strict=True):
            parameter.data = tensor

    def forget_sent(self) -> None:
        """Start the up link afresh: the server's store is not what this client thought."""
        self.encoder.store.clear()
        self.labels.clear()
