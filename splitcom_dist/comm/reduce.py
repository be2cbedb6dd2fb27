"""Adapters as flat vectors between ranks: weighted averaging, and the server's to the aggregator."""

import torch
import torch.distributed as dist
from torch import Tensor

from splitcom_dist.comm.failures import naming


def weighted_mean(weighted_sum: Tensor, weight: float, group: dist.ProcessGroup) -> tuple[Tensor, float, int]:
    """Average flat vectors over a group: sum of `weighted_sum` (n,) over all ranks / sum of `weight`.

    Ranks that only listen give zeros. Returns the mean (n,), the total weight and the bytes this rank handed over.
    """
    buffer = torch.cat([weighted_sum, torch.tensor([weight], dtype=weighted_sum.dtype)])
    with naming("a rank", dist.get_process_group_ranks(group), "adapter averaging"):
        dist.all_reduce(buffer, group=group)
    total = float(buffer[-1])
    return buffer[:-1] / total, total, buffer.nbytes


def send_vector(vector: Tensor, receiver: int, group: dist.ProcessGroup) -> int:
    """Send a flat vector whose length the receiver knows; returns its bytes."""
    with naming(f"rank {receiver}", [receiver], "sending adapters"):
        dist.send(vector.contiguous(), receiver, group=group)
    return vector.nbytes


def receive_vector(length: int, sender: int, group: dist.ProcessGroup) -> Tensor:
    """The flat float32 vector (length,) that `sender` sends."""
    vector = torch.empty(length)
    with naming(f"rank {sender}", [sender], "receiving adapters"):
        dist.recv(vector, sender, group=group)
    return vector
