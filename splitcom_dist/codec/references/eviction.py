"""Which rows a full store forgets first."""

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.references.rows import BLOCK, KEYS, Rows


class EvictionOrder:
    """Where each row lies and when it was last visited: one word a key, visit * 2^32 + slot + 1; 0 = unknown.

    All keys are gone through once in BLOCK evictions at least: what is found is queued in order, and an entry counts
    only if its key has not been visited since. Later visits are later than all in the queue, so its order is exact.
    """

    def __init__(self, places: Rows) -> None:
        self.places = places
        self.queue = torch.empty(0, dtype=torch.int64)  # visit * 2^31 + key, ascending

    def slots(self, keys: Tensor) -> Tensor:
        return (self._words(keys) & 0xFFFFFFFF) - 1

    def visits(self, keys: Tensor) -> Tensor:
        return self._words(keys) >> 32

    def place(self, keys: Tensor, slots: Tensor, visits: Tensor) -> None:
        self.places.write(keys, ((visits << 32) + slots + 1).unsqueeze(1))

    def touch(self, keys: Tensor, now: int) -> None:
        self.place(keys, self.slots(keys), torch.full_like(keys, now))

    def forget(self, keys: Tensor) -> None:
        self.places.write(keys, keys.new_zeros(len(keys), 1))

    def oldest(self, most: int, end: int) -> Tensor:
        """Up to `most` keys below `end`, the least recently visited; may be fewer, or none: then ask again."""
        if len(self.queue) == 0:
            self.queue = self._search(max(most, BLOCK), end)
        entries, self.queue = self.queue[:most], self.queue[most:]
        keys = entries % KEYS
        return keys[self.visits(keys) == entries // KEYS]

    def _search(self, most: int, end: int) -> Tensor:
        found = np.empty(0, dtype=np.int64)
        for begin in range(0, end, BLOCK):
            keys = torch.arange(begin, min(begin + BLOCK, end))
            words = self._words(keys)
            entries = ((words >> 32) * KEYS + keys)[words != 0]
            found = np.concatenate([found, entries.numpy()])
            if len(found) > most:
                found = np.partition(found, most - 1)[:most]
        found.sort()
        return torch.from_numpy(found)

    def _words(self, keys: Tensor) -> Tensor:
        return self.places.read(keys).squeeze(1)
