"""Gradients of the servers' adapters, summed over all servers and their shards in every step: they step as one would.

Always in float32: `fed.adapter_quantizer` makes up in later rounds for what its rounding drops, which is sound for an
average of weights, but an optimizer with moments would take a correction for a gradient (Tang et al. 2021, 1-bit
Adam, arXiv 2102.02888), and several servers would no longer equal one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from splitcom_dist.comm.failures import naming
from splitcom_dist.devices import to_device, to_host


class StepTotals(NamedTuple):
    """What a step is made of, of one server or of all. Counts of a step are exact below 2^24."""

    targets: int
    tokens: int
    loss: float  # summed over targets; NaN where the clients compute it
    crossed_bytes: int  # since the start of the run; summed over servers it is rounded to 2^-24 of itself
    of_shared: tuple[int, ...] = ()  # targets on which each block is trained that clients with deeper cuts train too


def gradient_bytes(elements: int, shared_blocks: int = 0) -> int:
    """Bytes that every server hands over in a step, for so many adapter elements."""
    return 4 * (elements + len(StepTotals._fields) - 1 + shared_blocks)


def sum_gradients(
    parameters: Sequence[nn.Parameter], totals: StepTotals, group: dist.ProcessGroup, others: str, step: int
) -> tuple[StepTotals, int]:
    """Replace every gradient by its sum over the servers of `group`, a missing one counting as zeros.

    Returns the sums of `totals` and the bytes handed over. One all-reduce in a ring, which adds an element's summands
    in the order of ranks from one that depends on its place alone and then hands the sum round: every server holds the
    same bits, and so does another run. Waits for the slowest server, so their steps must not differ by more than the
    timeout. Raises PeerLost naming the `others`.
    """
    own = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    gradients = to_host(torch.cat([gradient.flatten() for gradient in own]))
    *counts, of_shared = totals
    told = torch.tensor([*counts, *of_shared], dtype=torch.float32)
    buffer = torch.cat([gradients, told])
    ranks = [rank for rank in dist.get_process_group_ranks(group) if rank != dist.get_rank()]
    with naming(others, ranks, f"the sum of gradients, step {step}"):
        dist.all_reduce(buffer, group=group)
    sizes = [parameter.numel() for parameter in parameters]
    *sums, behind = buffer.split([*sizes, len(told)])
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad = to_device(gradient.view_as(parameter), parameter.device)
    targets, tokens, loss, crossed_bytes, *of_shared = behind.tolist()
    return StepTotals(int(targets), int(tokens), loss, int(crossed_bytes), tuple(map(int, of_shared))), buffer.nbytes
