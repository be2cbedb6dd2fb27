"""The loss over target tokens, wherever the LM head is."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from splitcom_dist.codec.ragged import target_rows
from splitcom_dist.devices import to_device
from splitcom_dist.errors import UserError


def token_loss(model: PreTrainedModel, hidden: Tensor, lengths: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Cross-entropy in nats, summed over all targets: rows (T, d) of B samples, (B,), B id vectors -> scalar.

    Lengths and targets are on the host, rows and loss where the model is. The LM head sees only positions that predict
    a target.
    """
    rows = target_rows(lengths, torch.tensor([len(target) for target in targets]))
    logits = model.lm_head(hidden[to_device(rows, hidden.device)]).float()
    return functional.cross_entropy(logits, to_device(torch.cat(list(targets)), hidden.device), reduction="sum")


def check_finite(loss: float, client: int, step: int, lr: float) -> None:
    """Raise UserError for a loss that would poison every adapter at the next averaging."""
    if not math.isfinite(loss):
        raise UserError(
            f"loss is {loss} at step {step} on client {client}: lower train.lr={lr} or look for broken weights"
        )
