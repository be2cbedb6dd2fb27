"""Which device a rank computes on, and the one way by which tensors come from there into host memory.

No line of this module was ever run with a GPU: `pytest -m gpu` is what to run where there is one.
"""

import socket
from collections.abc import Mapping

import torch
from torch import Tensor

from splitcom_dist.errors import UserError

HOST = torch.device("cpu")


def device_for(wanted: str, local_rank: int) -> torch.device:
    """The device that `runtime.device` gives to a local rank: those that torch sees in turn. Raises UserError.

    Where there are fewer of them than local ranks several ranks share one.
    """
    count = 0 if wanted == "cpu" else torch.cuda.device_count()
    if count and torch.cuda._is_in_bad_fork():
        raise UserError(
            "runtime.device: something used CUDA in the process that started the ranks, which keeps them from it: "
            "start them with torchrun (launch/torchrun.sh), or set runtime.device=cpu"
        )
    if count:
        return torch.device("cuda", local_rank % count)
    if wanted == "cuda":
        raise UserError(
            f"runtime.device=cuda: torch {torch.__version__} sees no CUDA device on {socket.gethostname()}: "
            "install a CUDA build of torch and see nvidia-smi there, or set runtime.device=auto or cpu"
        )
    return HOST


def planned(wanted: str, local_rank: int) -> str:
    """The device of a local rank if it were started on this machine, which need not be the one it is meant for."""
    try:
        return str(device_for(wanted, local_rank))
    except UserError:
        return "cuda, none here"


def sharing(device: torch.device, local_rank: int, local_world_size: int) -> list[int]:
    """The other local ranks on this rank's device; none where it is the CPU, which all share."""
    if device.type == "cpu":
        return []
    count = torch.cuda.device_count()
    return [other for other in range(local_rank % count, local_world_size, count) if other != local_rank]


def identity(device: torch.device) -> str:
    """The same text for the same device in whatever process, whatever its index there; empty for the CPU."""
    if device.type == "cpu":
        return ""
    return f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"


def take(device: torch.device) -> None:
    """Make it this process's own: NCCL wants to be told before its first transfer."""
    if device.type != "cpu":
        torch.cuda.set_device(device)


def to_host(tensor: Tensor) -> Tensor:
    """The tensor in host memory: itself if it is there, else a copy, for which the host waits.

    All copies to the host of rows, packets, adapters and states are made here; beside them the host waits for a
    device only where a loss becomes a number.
    """
    return tensor.cpu()


def random_states() -> dict[str, Tensor]:
    """Of torch's generators on the host and, where it is in use, on this process's device."""
    states = {"rng": torch.get_rng_state()}
    return states | ({"rng_device": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Go on drawing as the process whose `random_states` these are; one of a device is of use only on a device."""
    torch.set_rng_state(states["rng"])
    if "rng_device" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["rng_device"])
