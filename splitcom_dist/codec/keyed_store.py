"""The reference store of the video codec: one reconstruction row for each key, equal bit for bit at both ends."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitcom_dist.codec.quantize import Int8
from splitcom_dist.codec.rows import FileRows, MemoryRows, Rows
from splitcom_dist.errors import UserError, WireError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
KEYS = 1 << 31
DIGESTS = 1 << 63
BLOCK = 1 << 16  # keys or rows handled at once where all of them are gone through


class KeyedStore:
    """References (d,) of one client on one link, by key; `folder` keeps them in files, `limit` bounds their number.

    Keys are counters from 0. What a call does depends on the calls before it alone, never on the machine, so two
    stores of equal width, dtype and limit that saw equal calls are equal; `digest` watches it: the sum mod 2^63,
    over keys, of a hash of the key and of the row's bytes. Not safe against someone who seeks a collision.
    Each method takes keys (U,) int64 and raises WireError for one outside 0 to 2^31 - 1.
    """

    digest: int  # 0 when empty
    _count: int  # rows held
    _used: int  # slots ever used
    _end: int  # one past the highest key ever kept
    _now: int  # packets ended, from 1
    _free: Tensor  # slots to use again

    def __init__(self, width: int, dtype: str = "bfloat16", folder: Path | None = None, limit: int = 0) -> None:
        if dtype not in DTYPES:
            raise UserError(f"store_dtype={dtype}: choose one of {', '.join(DTYPES)}")
        self.width, self.dtype, self.folder, self.limit = width, dtype, folder, limit
        self._format = RowFormat(width, DTYPES[dtype])
        # Hashes by key (0 = unknown), rows by slot. Without a limit a key is its own slot and nothing else is kept.
        self._rows = self._memory("references", self._format.words)
        self._hashes = self._memory("hashes", 1)
        self._order = EvictionOrder(self._memory("places", 1)) if limit else None
        self._reset()

    def __len__(self) -> int:
        return self._count

    def known(self, keys: Tensor) -> Tensor:
        """Which keys have a reference: (U,) bool."""
        return self._marks(keys) != 0

    def get(self, keys: Tensor) -> Tensor:
        """The references (U, d) float32, in storage of their own. Raises WireError if one is unknown."""
        missing = keys[~self.known(keys)]
        if len(missing):
            raise WireError(f"keys: {int(missing[0])} has no reference")
        return self._format.unpack(self._rows.read(self._slots(keys)))

    def put(self, keys: Tensor, rows: Tensor) -> Tensor:
        """Keep rows (U, d) of distinct keys; returns what `get` gives from now on, rounded to the store's dtype.

        Raises WireError for a key given twice or a row that is not finite in the store's dtype, and UserError if
        there is no room; the store is then as before.
        """
        if bool((keys[1:] <= keys[:-1]).any()) and len(keys.unique()) < len(keys):
            raise WireError("keys: one is there twice")
        words = self._format.pack(rows)
        kept = self._format.unpack(words)
        # One pass without a temporary: a NaN anywhere is the extremes' too. Ten times as fast as isfinite.
        if len(kept) and not bool(torch.stack(kept.aminmax()).isfinite().all()):
            raise WireError(f"rows: not all are finite as {self.dtype}")
        self._keep(keys, words, torch.full_like(keys, self._now))
        return kept

    def touch(self, keys: Tensor) -> None:
        """These were visited now, as `put` ones are; unknown keys are passed over."""
        if self._order is not None:
            self._order.touch(keys[self.known(keys)], self._now)

    def drop(self, keys: Tensor) -> None:
        """Forget these; unknown keys are passed over."""
        keys = keys.unique()
        keys = keys[self.known(keys)]
        self.digest = (self.digest - int(self._marks(keys).sum())) % DIGESTS
        self._count -= len(keys)
        self._hashes.write(keys, keys.new_zeros(len(keys), 1))
        if self._order is not None:
            self._free = torch.cat([self._free, self._slots(keys)])
            self._order.forget(keys)

    def evict(self) -> int:
        """End of a packet: forget the least recently visited rows over `limit`, of equal ones the lower keys first.

        Visits between two calls count as simultaneous. Returns the number of rows forgotten.
        """
        before = self._count
        if self._order is not None:
            while self._count > self.limit:
                self.drop(self._order.oldest(self._count - self.limit, self._end))
            self._now += 1
        return before - self._count

    def clear(self) -> None:
        for memory in self._memories():
            memory.clear()
        self._reset()

    def close(self) -> None:
        """Give memory back and remove the files; the store is of no use afterwards."""
        for memory in self._memories():
            memory.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the references held, with their scales."""
        return self._count * self._format.row_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of this process's memory that references, hashes and the order of visits take."""
        queued = 0 if self._order is None else self._order.queue.nbytes
        return sum(memory.resident for memory in self._memories()) + self._free.nbytes + queued

    def state(self) -> dict[str, Tensor]:
        """All of it, in memory, for a checkpoint."""
        blocks = (torch.arange(begin, min(begin + BLOCK, self._end)) for begin in range(0, self._end, BLOCK))
        keys = torch.cat([torch.empty(0, dtype=torch.int64), *(block[self.known(block)] for block in blocks)])
        return {
            "keys": keys,
            "rows": self._rows.read(self._slots(keys)),
            "visits": torch.zeros_like(keys) if self._order is None else self._order.visits(keys),
            "meta": torch.tensor([self.width, list(DTYPES).index(self.dtype), self._now, self.digest]),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on as the store that gave `state`. Raises UserError if it was of another form or has been damaged."""
        width, dtype, now, digest = state["meta"].tolist()
        if (width, dtype) != (self.width, list(DTYPES).index(self.dtype)):
            stored = f"{width} x {list(DTYPES)[dtype]}"
            raise UserError(f"store_dtype={self.dtype}: the checkpoint's references are {stored}: resume with that")
        self.clear()
        for keys, rows, visits in zip(*(state[part].split(BLOCK) for part in ("keys", "rows", "visits")), strict=True):
            self._keep(keys, rows, visits)
        self._now = now
        if self.digest != digest:
            self.clear()
            raise UserError("the checkpoint's references are damaged: resume from an earlier one")

    def _keep(self, keys: Tensor, words: Tensor, visits: Tensor) -> None:
        """Rows as stored words; nothing has changed before all room is reserved."""
        old, new = self._marks(keys), self._format.hashes(keys, words)
        unknown = old == 0
        slots, free, used = self._slots(keys), self._free, self._used
        if self._order is not None:
            fresh = int(unknown.sum()) - len(free)
            slots[unknown] = torch.cat([free, torch.arange(used, used + max(fresh, 0))])[: int(unknown.sum())]
            free, used = free[int(unknown.sum()) :], used + max(fresh, 0)
        end = int(keys.max()) + 1 if len(keys) else 0
        self._rows.reserve(int(slots.max()) + 1 if len(slots) else 0)
        for memory in self._memories()[1:]:
            memory.reserve(end)
        self._rows.write(slots, words)
        self._hashes.write(keys, new.unsqueeze(1))
        if self._order is not None:
            self._order.place(keys, slots, visits)
        self._free, self._used, self._end = free, used, max(self._end, end)
        self._count += int(unknown.sum())
        self.digest = (self.digest + int((new - old).sum())) % DIGESTS

    def _marks(self, keys: Tensor) -> Tensor:
        if len(keys) and not 0 <= int(keys.min()) <= int(keys.max()) < KEYS:
            raise WireError(f"keys: {int(keys.min())} to {int(keys.max())}, outside 0 to {KEYS - 1}")
        return self._hashes.read(keys).squeeze(1)

    def _slots(self, keys: Tensor) -> Tensor:
        return keys if self._order is None else self._order.slots(keys)

    def _memory(self, name: str, words: int) -> Rows:
        return MemoryRows(words) if self.folder is None else FileRows(words, self.folder / f"{name}.bin")

    def _memories(self) -> list[Rows]:
        return [self._rows, self._hashes, *([] if self._order is None else [self._order.places])]

    def _reset(self) -> None:
        self.digest = self._count = self._used = self._end = 0
        self._now = 1
        self._free = torch.empty(0, dtype=torch.int64)
        if self._order is not None:
            self._order.queue = self._free


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


class RowFormat:
    """Rows (U, d) float32 to the words (U, w) int64 that are stored, and their hashes; deterministic arithmetic alone.

    Element after element, little-endian, for int8 the bf16 scale after them, zeros up to a whole word.
    """

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.width, self.dtype = width, dtype
        self.row_bytes = width * dtype.itemsize + (2 if dtype == torch.int8 else 0)
        self.words = -(-self.row_bytes // 8)
        self._factors = splitmix64(np.arange(2 * self.words, dtype=np.uint64)) | np.uint64(1)

    def pack(self, rows: Tensor) -> Tensor:
        packed = torch.zeros(len(rows), self.words * 8, dtype=torch.uint8)
        if self.dtype == torch.int8:
            scales, symbols = Int8(torch.float32).encode(rows)
            packed[:, : self.width] = symbols.view(len(rows), self.width)
            packed[:, self.width : self.row_bytes] = scales.view(len(rows), 2)
        else:
            packed[:, : self.row_bytes] = rows.to(self.dtype).contiguous().view(torch.uint8)
        return packed.view(torch.int64)

    def unpack(self, words: Tensor) -> Tensor:
        packed = words.view(torch.uint8)[:, : self.row_bytes]
        if self.dtype != torch.int8:
            return packed.contiguous().view(self.dtype).float()
        symbols, scales = packed[:, : self.width].contiguous(), packed[:, self.width :].contiguous()
        return Int8(torch.float32).decode(scales.view(-1), symbols, len(words), self.width)

    def hashes(self, keys: Tensor, words: Tensor) -> Tensor:
        """(U,), 1 to 2^63 - 1: multilinear in 32-bit halves (Lemire and Kaser 2014, section 2), then splitmix64.

        Factors are odd, so any single changed half changes the sum; halves, because the top bits of two whole words
        would cancel mod 2^64 whatever the factors.
        """
        # numpy's product of unsigned integers: exact mod 2^64, no temporary of eight bytes an element
        sums = words.contiguous().numpy().view(np.uint32) @ self._factors
        mixed = splitmix64(sums ^ splitmix64(keys.numpy().astype(np.uint64)))
        return torch.from_numpy(np.maximum(mixed >> np.uint64(1), np.uint64(1)).view(np.int64))


def splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014, figure 14): a bijection whose bits all depend on all."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
