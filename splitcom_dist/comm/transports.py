"""What carries the messages of an edge: channels between two ranks, through their hosts or from device to device."""

from typing import Protocol

import torch
from torch import Tensor

SLOT = 32 * 1024  # bytes; up to here a second message costs more than sending the first one whole


class Pending(Protocol):
    def wait(self) -> object: ...


class Transport(Protocol):
    peer: int  # the rank at the other end

    def send(self, *messages: Tensor) -> None: ...

    def post_send(self, message: Tensor) -> Pending: ...

    def post_receive(self, buffer: Tensor) -> Pending: ...


class DeviceTransport(Protocol):
    @property
    def device(self) -> torch.device:
        """Where what it sends and receives lies."""
        ...

    def send(self, message: Tensor) -> None: ...

    def post_receive(self, buffer: Tensor) -> Pending: ...
