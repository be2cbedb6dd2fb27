"""How the work of a client and of its server changes with the cut, in blocks.

Linear in the blocks: with frozen weights a position costs about as many operations as it meets weights, forward as
well as backward, and the LM head is worth as many blocks as its weights are.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from splitcom_dist.cuts.measured import Measured
from splitcom_dist.models.families import decoder_of, family_of


@dataclass(frozen=True)
class Work:
    """`blocks` before the tail; what is beside them, LM head and tail, in blocks, at the `client` or at the server."""

    blocks: int
    beside: float
    at_client: bool

    def of_client(self, cut: int) -> float:
        return cut + self.beside * self.at_client

    def of_server(self, cut: int) -> float:
        return self.blocks - cut + self.beside * (not self.at_client)


def work_of(model: PreTrainedModel, tail_layers: int) -> Work:
    """What the parts of a whole model cost, by the weights that a position meets."""
    family = family_of(model.config.model_type)
    blocks = cast(nn.ModuleList, getattr(decoder_of(model, family), family.blocks))
    block = sum(parameter.numel() for parameter in blocks[0].parameters())
    lm_head = sum(parameter.numel() for parameter in cast(nn.Module, model.get_output_embeddings()).parameters())
    return Work(len(blocks) - tail_layers, tail_layers + lm_head / block, at_client=tail_layers > 0)


@dataclass(frozen=True)
class TurnTime:
    """Seconds of one client's turn: a block's, at either end, and what does not depend on the cut."""

    work: Work
    computing: float  # a block, by the client
    sending: float  # a turn
    serving: float  # a block, by the server
    answering: float  # a turn

    @classmethod
    def measured(cls, work: Work, measured: Measured, cut: int) -> "TurnTime":
        """As it was at one cut."""
        return cls(
            work,
            measured.computing / measured.turns / work.of_client(cut),
            measured.sending / measured.turns,
            measured.serving / measured.turns / work.of_server(cut),
            measured.answering / measured.turns,
        )

    def blended(self, newer: "TurnTime") -> "TurnTime":
        """Half of what was known and half of what is new: other things run on the same machines."""
        return TurnTime(
            self.work,
            *((old + new) / 2 for old, new in zip(self.seconds, newer.seconds, strict=True)),
        )

    @property
    def seconds(self) -> tuple[float, float, float, float]:
        """All that was measured, in the order of the fields."""
        return self.computing, self.sending, self.serving, self.answering

    def computing_at(self, cut: int) -> float:
        """By the client."""
        return self.computing * self.work.of_client(cut)

    def at_client(self, cut: int) -> float:
        """Computing, encoding and sending."""
        return self.computing_at(cut) + self.sending

    def at_server(self, cut: int) -> float:
        """What the server takes for this client's batch, and to send the answer."""
        return self.serving * self.work.of_server(cut) + self.answering
