"""Gates: which samples of a batch are sent anew. A gate sees sketches or nothing; it never changes the store."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.gated.sketch import sample_cosine, token_measures
from splitcom_dist.devices import to_device, to_host
from splitcom_dist.state import State, facts, read_facts


@dataclass(frozen=True)
class Similarity:
    """How near a batch is to its references, a value a sample (B,), in host memory; NaN where there is none yet."""

    cosine: Tensor
    relative_l2: Tensor  # (4, B): quantiles 0.1, 0.5, 0.9 and 1 over the sample's tokens


Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def compare(
    now: Tensor, reference: Tensor, lengths: Tensor, known: Tensor, measure: Measure = token_measures
) -> Similarity:
    """Similarity of sketches (T, k) to reference sketches (T, k); rows of unknown samples are not read.

    One wait for the device of the sketches.
    """
    products, change = measure(now, reference)
    cosine = sample_cosine(products, lengths)
    levels = to_device(torch.tensor([0.1, 0.5, 0.9, 1.0]), now.device)
    quantiles = [torch.quantile(tokens, levels) for tokens in change.split(lengths.tolist())]
    both = torch.cat([cosine.unsqueeze(0), torch.stack(quantiles, dim=1).double()])
    both = to_host(both).masked_fill(~known, torch.nan)
    return Similarity(both[0], both[1:].to(change.dtype))


class Drift:
    """How fast the values of one link leave their references: relative error gained a visit, over many samples.

    For equal norms a cosine rho is a relative error sqrt(2 - 2 rho).
    """

    def __init__(self) -> None:
        self._ages: dict[int, int] = {}  # visits since a sample was sent
        self._sum, self._count = 0.0, 0

    def observe(self, samples: Sequence[int], similarity: Similarity, sent: Tensor) -> None:
        """One batch that went through a gate."""
        for sample, cosine, is_sent in zip(samples, similarity.cosine.tolist(), sent.tolist(), strict=True):
            age = self._ages.get(sample, 0) + 1
            self._ages[sample] = 0 if is_sent else age
            if not math.isnan(cosine):
                self._sum += math.sqrt(max(0.0, 2 - 2 * cosine)) / age
                self._count += 1

    def take(self) -> tuple[float, int]:
        """Sum over visits of the error gained a visit, and their number, since this was last asked."""
        taken = self._sum, self._count
        self._sum, self._count = 0.0, 0
        return taken

    def put_back(self, total: float, count: int) -> None:
        """What `take` gave is still to be asked for."""
        self._sum, self._count = total, count

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        ages = torch.tensor([*self._ages.items()], dtype=torch.int64).view(-1, 2)
        return {"ages": ages, "facts": facts({"sum": self._sum, "count": self._count})}

    def load(self, state: State) -> None:
        """Go on as the one that gave `state`."""
        self._ages = dict(state["ages"].tolist())
        taken = read_facts(state["facts"])
        self._sum, self._count = taken["sum"], taken["count"]


def cosine_gate(similarity: Similarity, theta: float) -> Tensor:
    """SplitCom's rule: skip where cosine > theta, else send; (B,) bool, True = send. NaN always sends."""
    return ~(similarity.cosine > theta)
