"""How client ranks and the aggregator sum a vector: as one all-reduce, or through the aggregator, who can do without
a rank that is lost in the middle of it (star.py)."""

from typing import Protocol

import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.failures import naming


class Circle(Protocol):
    def sum(self, buffer: Tensor, step: int) -> int:
        """Make `buffer` (n,) float32 the sum over all ranks, bit for bit the same on each; returns the bytes that this
        rank handed over."""
        ...


class Ring:
    """One all-reduce over a group: the fewest bytes a rank, and the end of the run when one of them is lost."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def sum(self, buffer: Tensor, step: int) -> int:
        with naming("a rank", dist.get_process_group_ranks(self.group), f"adapter averaging after step {step}"):
            dist.all_reduce(buffer, group=self.group)
        return buffer.nbytes
