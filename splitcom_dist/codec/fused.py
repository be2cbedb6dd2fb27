"""Pure functions of a codec that every packet passes, compiled: many small operators in one pass over the rows.

Each operator by itself reads and writes all rows, and is one more launch on a GPU. What is compiled divides and rounds
as torch's own operators do, so that symbols and scales are the same to the bit; sums may differ in their last bits.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from splitcom_dist.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")
AS_IN_TORCH = {"eager_numerics.division_rounding": True, "emulate_precision_casts": True}


@cache
def fused(function: Callable[P, T]) -> Callable[P, T]:
    """A function of rows by torch.compile: at its first call, which takes seconds.

    No rows, or one, are left to the function itself: torch would compile anew for these. Raises UserError if torch
    cannot compile it.
    """
    compiled = torch.compile(function, dynamic=True, options={**AS_IN_TORCH, "compile_threads": 1})

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if len(cast(Tensor, args[0])) < 2:
            return function(*args, **kwargs)
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"runtime.compile: torch cannot compile the codec here ({reason}): set it to false"
            ) from None

    return call
