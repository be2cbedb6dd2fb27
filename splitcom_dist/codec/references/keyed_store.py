"""The reference store of the video codec: one reconstruction row for each key, equal bit for bit at both ends."""

from pathlib import Path

import torch
from torch import Tensor

from splitcom_dist.codec.references.eviction import EvictionOrder
from splitcom_dist.codec.references.row_format import RowFormat
from splitcom_dist.codec.references.rows import BLOCK, KEYS, FileRows, MemoryRows, Rows
from splitcom_dist.errors import UserError, WireError
from splitcom_dist.state import State

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
DIGESTS = 1 << 63


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

    def state(self) -> State:
        """All of it, in memory, for a checkpoint."""
        blocks = (torch.arange(begin, min(begin + BLOCK, self._end)) for begin in range(0, self._end, BLOCK))
        keys = torch.cat([torch.empty(0, dtype=torch.int64), *(block[self.known(block)] for block in blocks)])
        return {
            "keys": keys,
            "rows": self._rows.read(self._slots(keys)),
            "visits": torch.zeros_like(keys) if self._order is None else self._order.visits(keys),
            "meta": torch.tensor([self.width, list(DTYPES).index(self.dtype), self._now, self.digest]),
        }

    def load(self, state: State) -> None:
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
