"""Labels in the standard shape: each sample's target tokens cross once, with its first visit, and are cached."""

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.errors import WireError
from splitcom_dist.state import State


class LabelSender:
    """Client end: packs the targets of samples that the server has not seen."""

    def __init__(self, vocabulary: int) -> None:
        self._token_type = _token_type(vocabulary)
        self._sent: set[int] = set()

    def pack(self, samples: list[int], targets: list[Tensor]) -> Tensor:
        """uint16 target count a sample (0 = sent before), then the new target ids; empty if nothing is new."""
        news = [sample not in self._sent for sample in samples]
        if not any(news):
            return torch.empty(0, dtype=torch.uint8)
        self._sent.update(samples)
        counts = [len(target) if new else 0 for target, new in zip(targets, news, strict=True)]
        tokens = [target.numpy() for target, new in zip(targets, news, strict=True) if new]
        raw = np.asarray(counts, "<u2").tobytes() + np.concatenate(tokens).astype(self._token_type).tobytes()
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8)

    def state(self) -> State:
        """The samples whose targets were sent (n,)."""
        return {"sent": torch.tensor(sorted(self._sent), dtype=torch.int64)}

    def load(self, state: State) -> None:
        """Go on as the sender that gave `state`."""
        self._sent = set(state["sent"].tolist())

    def clear(self) -> None:
        """Send every sample's targets again at its next visit."""
        self._sent.clear()


class LabelCache:
    """Server end: targets by sample id for one client."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._token_type = _token_type(vocabulary)
        self._targets: dict[int, Tensor] = {}

    def unpack(self, packed: Tensor, samples: list[int], lengths: Tensor) -> list[Tensor]:
        """Target ids of each sample (int64), from packet or cache. Raises WireError, with the cache unchanged."""
        fresh = self._parse(packed.numpy().tobytes(), samples, lengths) if len(packed) else {}
        for sample, length in zip(samples, lengths.tolist(), strict=True):
            targets = fresh.get(sample, self._targets.get(sample))
            if targets is None:
                raise WireError(f"labels: sample {sample} came without labels and none are cached")
            if len(targets) > length:
                raise WireError(f"labels: sample {sample} has {len(targets)} targets on {length} positions")
        self._targets |= fresh
        return [self._targets[sample] for sample in samples]

    def recall(self, samples: list[int]) -> list[Tensor]:
        """Target ids of samples that came before; KeyError for any other."""
        return [self._targets[sample] for sample in samples]

    def state(self) -> State:
        """Samples (n,), their target counts, and all targets one after another, int64."""
        targets = list(self._targets.values())
        return {
            "samples": torch.tensor(list(self._targets), dtype=torch.int64),
            "counts": torch.tensor([len(part) for part in targets], dtype=torch.int64),
            "targets": torch.cat([torch.empty(0, dtype=torch.int64), *targets]),
        }

    def load(self, state: State) -> None:
        """Go on as the cache that gave `state`."""
        parts = state["targets"].clone().split(state["counts"].tolist())
        self._targets = dict(zip(state["samples"].tolist(), parts, strict=True))

    def _parse(self, raw: bytes, samples: list[int], lengths: Tensor) -> dict[int, Tensor]:
        if len(raw) < 2 * len(samples):
            raise WireError(f"labels: {len(raw)} bytes cannot hold {len(samples)} counts")
        counts = np.frombuffer(raw, "<u2", len(samples)).tolist()
        if len(raw) != 2 * len(samples) + sum(counts) * np.dtype(self._token_type).itemsize:
            raise WireError(f"labels: {len(raw)} bytes do not fit {sum(counts)} targets")
        tokens = np.frombuffer(raw, self._token_type, offset=2 * len(samples)).astype(np.int64)
        if len(tokens) and tokens.max() >= self._vocabulary:
            raise WireError(f"labels: token {tokens.max()} is outside the vocabulary of {self._vocabulary}")
        parts = torch.from_numpy(tokens).split(counts)
        return {sample: part for sample, part in zip(samples, parts, strict=True) if len(part)}


def max_label_bytes(samples: int, tokens: int, vocabulary: int) -> int:
    """Largest labels section of a packet with so many samples and positions."""
    return 2 * samples + tokens * np.dtype(_token_type(vocabulary)).itemsize


def _token_type(vocabulary: int) -> str:
    return "<u2" if vocabulary <= 2**16 else "<u4"
