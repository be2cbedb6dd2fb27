"""Which device a rank computes on, and the two ways between it and host memory: one waits, the other never does.

No line of this module was ever run with a GPU: `pytest -m gpu` is what to run where there is one.
"""

import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from splitcom_dist.errors import UserError

T = TypeVar("T")
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
    if tensor.device.type != "cuda":
        return tensor.cpu()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()  # of one stream: others go on
    return copy


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device that this rank computes on: itself if it is there, else a copy behind all that the
    device was given before. Nobody waits for it, so nobody may write to pinned memory that is copied from."""
    return tensor.to(device, non_blocking=True)


def staging(size: int, device: torch.device) -> Tensor:
    """A vector of so many bytes in host memory, pinned if what arrives there goes on to a device.

    Pinned memory comes from torch's cache, which knows what is still being copied from: allocate anew for every use.
    """
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


class Lane:
    """A stream of its own on a device, for what a thread does while its rank goes on; on the CPU the thread is all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def aside(self, act: Callable[[], T]) -> Callable[[], T]:
        """`act` for another thread: behind all that the caller has given the device so far, beside what it gives it
        later. It returns when the device has done it, so that its memory is free for both."""
        stream = self._stream
        if stream is None:
            return act
        given = torch.cuda.current_stream(self._device).record_event()

        def on_lane() -> T:
            with torch.cuda.stream(stream):
                stream.wait_event(given)
                done = act()
                stream.synchronize()
                return done

        return on_lane


def random_states() -> dict[str, Tensor]:
    """Of torch's generators on the host and, where it is in use, on this process's device."""
    states = {"rng": torch.get_rng_state()}
    return states | ({"rng_device": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Go on drawing as the process whose `random_states` these are; one of a device is of use only on a device."""
    torch.set_rng_state(states["rng"])
    if "rng_device" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["rng_device"])
