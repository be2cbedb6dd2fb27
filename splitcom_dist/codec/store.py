"""The reference store: per sample, the last reconstruction that both ends of a link agree on."""

import hashlib

import torch
from torch import Tensor

from splitcom_dist.devices import HOST
from splitcom_dist.errors import WireError
from splitcom_dist.state import State


class ReferenceStore:
    """References of one client on one link, by sample id.

    The two ends may keep different views of a reference (the server all of it, a SplitCom client its sketch), so
    equality is watched through what made it: each entry carries a checksum of the bytes that were sent, and the store
    an order-free digest over (sample, checksum). Equal digests mean equal references, whichever order they came in.
    """

    def __init__(self, device: torch.device = HOST) -> None:
        """The references are tensors on `device`."""
        self._device = device
        self._entries: dict[int, tuple[Tensor, int]] = {}
        self.digest = 0  # fits an int64

    def __contains__(self, sample: int) -> bool:
        return sample in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def known(self, samples: list[int]) -> Tensor:
        """Which samples have a reference: (B,) bool."""
        return torch.tensor([sample in self._entries for sample in samples], dtype=torch.bool)

    def get(self, sample: int) -> Tensor:
        """The reference of a sample; KeyError if it has none."""
        return self._entries[sample][0]

    def put(self, sample: int, reference: Tensor, checksum: int) -> None:
        """Replace a sample's reference; `checksum` is that of the sent bytes that reconstruct to it."""
        if sample in self._entries:
            self.digest ^= _mark(sample, self._entries[sample][1])
        self._entries[sample] = (reference, checksum)
        self.digest ^= _mark(sample, checksum)

    def recall(self, samples: list[int], lengths: Tensor) -> list[Tensor]:
        """The references (L, ...) of samples; raises WireError if one is missing or has another length."""
        for sample, length in zip(samples, lengths.tolist(), strict=True):
            if sample not in self or len(self.get(sample)) != length:
                raise WireError(f"modes: sample {sample} is skipped but has no reference of {length} tokens")
        return [self.get(sample) for sample in samples]

    def state(self) -> State:
        """Samples (n,), their lengths and checksums, and all rows one after another."""
        tensors = [tensor for tensor, _ in self._entries.values()]
        rows = torch.cat(tensors) if tensors else torch.empty(0, 0)
        return {
            "samples": torch.tensor(list(self._entries), dtype=torch.int64),
            "lengths": torch.tensor([len(tensor) for tensor in tensors], dtype=torch.int64),
            "checksums": torch.tensor([checksum for _, checksum in self._entries.values()], dtype=torch.int64),
            "rows": rows,
        }

    def load(self, state: State) -> None:
        """Go on as the store that gave `state`."""
        self.clear()
        rows = state["rows"].to(self._device).split(state["lengths"].tolist())
        for sample, checksum, reference in zip(
            state["samples"].tolist(), state["checksums"].tolist(), rows, strict=True
        ):
            self.put(sample, reference.clone(), checksum)

    def clear(self) -> None:
        self._entries.clear()
        self.digest = 0

    def close(self) -> None:
        """Give the references up."""
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the references held."""
        return sum(reference.nbytes for reference, _ in self._entries.values())


def _mark(sample: int, checksum: int) -> int:
    hashed = hashlib.blake2b(sample.to_bytes(8, "little") + checksum.to_bytes(4, "little"), digest_size=8).digest()
    return int.from_bytes(hashed, "little") >> 1
