"""Rows of 64-bit words by number, in memory or in a file: where a reference store lays its rows.

A row that was never written is zero. Memory is asked for only as rows are written, and no call works row by row.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.errors import UserError

KEYS = 1 << 31  # how many there can be
BLOCK = 1 << 16  # keys or rows handled at once where all of them are gone through
GROWTH = 8  # capacity grows by at least one part in so many,
AHEAD = 64 << 20  # of a file by no more than so many bytes beyond need


class Rows(Protocol):
    def reserve(self, rows: int) -> None:
        """Make room for rows 0 to `rows` - 1. Raises UserError, with nothing changed, if there is none."""
        ...

    def read(self, numbers: Tensor) -> Tensor:
        """Rows (U, words) int64 of the numbers (U,); zeros beyond what was reserved."""
        ...

    def write(self, numbers: Tensor, words: Tensor) -> None:
        """Replace rows that were reserved."""
        ...

    @property
    def resident(self) -> int:
        """Bytes of this process's memory that the rows take, at most."""
        ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


class MemoryRows:
    """Private anonymous pages: zero, and not resident, until written; the kernel grows them without a copy."""

    _pages: mmap.mmap
    _rows: Tensor
    high: int  # rows reserved so far: what was not written of them is not resident

    def __init__(self, words: int) -> None:
        self.words = words
        self._open()

    def reserve(self, rows: int) -> None:
        held = len(self._rows)
        if rows > held:
            wanted = max(rows, held + held // GROWTH) * self.words * 8
            # The kernel moves the pages, which it may not while a view of the old place is left.
            self._rows = torch.empty(0, self.words, dtype=torch.int64)
            try:
                self._pages.resize(-(-wanted // mmap.PAGESIZE) * mmap.PAGESIZE)
            except OSError:
                raise UserError(
                    f"no memory for {wanted - held * self.words * 8:,} more bytes of references: "
                    "set codec.<link>.store=disk or store_dtype=int8"
                ) from None
            finally:
                self._rows = self._view()
        self.high = max(self.high, rows)

    def read(self, numbers: Tensor) -> Tensor:
        inside = numbers < len(self._rows)
        if bool(inside.all()):
            return self._rows.index_select(0, numbers)
        words = torch.zeros(len(numbers), self.words, dtype=torch.int64)
        words[inside] = self._rows[numbers[inside]]
        return words

    def write(self, numbers: Tensor, words: Tensor) -> None:
        self._rows.index_copy_(0, numbers, words)

    @property
    def resident(self) -> int:
        return self.high * self.words * 8

    def clear(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self._rows = torch.empty(0, self.words, dtype=torch.int64)
        self._pages.close()

    def _open(self) -> None:
        self.high = 0
        self._pages = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._rows = self._view()

    def _view(self) -> Tensor:
        flat = np.frombuffer(self._pages, dtype=np.int64, count=len(self._pages) // (8 * self.words) * self.words)
        return torch.from_numpy(flat.reshape(-1, self.words))


class FileRows:
    """A file, read and written by runs of consecutive rows; it stays in the kernel's cache, not in this process.

    Measured against a mapping with MADV_DONTNEED after each call (8 runs of 53 rows of 776 bytes, file in cache):
    reads 8.9 GB/s against 4.2, writes in place 4.1 GB/s against 0.8; and a mapping answers a full disk or a bad
    block with SIGBUS, a write with an error to report. Only rows without neighbours are slower (4 us a row).
    """

    def __init__(self, words: int, path: Path) -> None:
        self.words, self.path, self._held = words, path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"{path}: cannot keep references here ({error.strerror}): name another folder") from None

    def reserve(self, rows: int) -> None:
        if rows <= self._held:
            return
        ample = max(rows, self._held + min(self._held // GROWTH, AHEAD // (self.words * 8)))
        for wanted in (ample, rows):  # the last megabytes of a disk are still used
            try:
                os.posix_fallocate(self._file, self._held * self.words * 8, (wanted - self._held) * self.words * 8)
            except OSError as error:
                os.ftruncate(self._file, self._held * self.words * 8)
                if wanted == rows:
                    raise self._failure(error, (rows - self._held) * self.words * 8) from None
            else:
                self._held = wanted
                return

    def read(self, numbers: Tensor) -> Tensor:
        inside = numbers < self._held
        if not bool(inside.all()):
            words = torch.zeros(len(numbers), self.words, dtype=torch.int64)
            words[inside] = self.read(numbers[inside])
            return words
        words = torch.empty(len(numbers), self.words, dtype=torch.int64)
        self._move(os.preadv, numbers, words)
        return words

    def write(self, numbers: Tensor, words: Tensor) -> None:
        self._move(os.pwritev, numbers, words.contiguous())

    @property
    def resident(self) -> int:
        return 0

    def clear(self) -> None:
        os.ftruncate(self._file, 0)
        self._held = 0

    def close(self) -> None:
        """Close and remove the file: it belongs to one run."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)

    def _move(self, call: Callable[[int, list[memoryview], int], int], numbers: Tensor, words: Tensor) -> None:
        place = words.view(-1).view(torch.uint8).numpy().data
        for number, begin, end in runs(numbers):
            offset, left = number * self.words * 8, place[begin * self.words * 8 : end * self.words * 8]
            while len(left):  # a call may move less than it was asked to
                try:
                    moved = call(self._file, [left], offset)
                except OSError as error:
                    raise self._failure(error, len(left)) from None
                if moved == 0:
                    raise UserError(f"{self.path}: was cut short by another program while it held references")
                offset, left = offset + moved, left[moved:]

    def _failure(self, error: OSError, needs: int) -> UserError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = f"disk full while storing references (needs {needs:,} bytes more)"
        else:
            what = f"{error.strerror} while storing references"
        return UserError(
            f"{self.path.parent}: {what}: free space or set codec.<link>.store=ram / store_dtype=int8",
        )


def runs(numbers: Tensor) -> Iterator[tuple[int, int, int]]:
    """The runs of consecutive numbers in (U,): the first number, and where the run begins and ends."""
    if len(numbers) == 0:
        return iter(())
    breaks = (numbers[1:] - numbers[:-1] != 1).nonzero().squeeze(1) + 1
    begins = torch.cat([breaks.new_zeros(1), breaks])
    ends = torch.cat([breaks, breaks.new_tensor([len(numbers)])])
    return zip(numbers[begins].tolist(), begins.tolist(), ends.tolist(), strict=True)
