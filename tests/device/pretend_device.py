"""A device without memory that stands in for a GPU: what is on it has a shape and a type, and no values.

Tensors on it are torch's fake tensors on a device of their own, since the CPU build of torch ends the process when it
differentiates one on "cuda". Everything on the host is real. An operation that mixes both raises, as CUDA would; what
makes the host wait for the device is noted, and answered with a constant.
"""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import splitcom_dist

PACKAGE = Path(splitcom_dist.__file__).parent
aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def register() -> torch.device:
    """Make the device known to torch, for as long as this process lives."""
    _setup_privateuseone_for_python_backend(rename="pretend")
    return torch.device("pretend", 0)


class PretendDevice(TorchDispatchMode):
    """While it is entered, tensors may be on `device`; what comes to the host from there is `answer` everywhere."""

    def __init__(self, device: torch.device, answer: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.answer = answer
        self.waits: list[str] = []  # where the host waited for the device
        self.uploads: list[str] = []  # where it gave it something
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        faked = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        target = kwargs.get("device")
        if func is aten._to_copy.default and faked and target == torch.device("cpu"):
            self.waits.append(_place())
            return torch.full(args[0].shape, self.answer, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten._local_scalar_dense.default and faked:
            self.waits.append(_place())
            return self.answer
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor) and faked:
            raise AssertionError(f"a copy into host memory in {_place()}")
        if func in INDEXING and faked and len(faked) < len(tensors):
            raise AssertionError(f"an index on the host into a tensor on the device in {_place()}")
        if target == self.device and not faked and tensors:
            self._note_upload(waits=not kwargs.get("non_blocking"))
            with self._fake:
                return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=self.device)
        if target == self.device and not faked:
            with self._fake:
                return func(*args, **kwargs)
        if func is aten.copy_.default and faked and len(faked) < len(tensors):
            self._note_upload(waits=not (args[2] if len(args) > 2 else kwargs.get("non_blocking")))
        return func(*args, **kwargs)

    def _note_upload(self, waits: bool) -> None:
        self.uploads.append(_place())
        if waits:
            self.waits.append(f"{_place()}, which gives")

    def holding(self, model: nn.Module) -> nn.Module:
        """The model with every parameter and buffer on the device; shared ones stay shared."""
        moved: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                with self._fake:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            return moved[id(tensor)]

        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        store[name] = move(tensor)  # type: ignore[assignment]
        return model


def _place() -> str:
    """The innermost function of the package under way, the two ways apart: `codec/gated/gate.py compare`."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE) and frame.name not in ("to_host", "to_device"):
            return f"{path.relative_to(PACKAGE)} {frame.name}"
    return "the test"
