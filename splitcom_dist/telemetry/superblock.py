"""The first 48 bytes of a log, and the log's bytes as HDF5 may safely be shown them.

HDF5 refuses a file that was cut off or whose writer was killed; asked to read it all the same (SWMR), it takes zeros
for what is not there, or waits for it for ever. Shown a `LogImage` it sees a file that was closed, and fails at once.
"""

import io
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LAYOUT = struct.Struct("<8sBBBBQQQQ")  # HDF5's superblock of version 3, without its checksum
SIZE = LAYOUT.size + 4
NOWHERE = 2**64 - 1  # an address that is none
MASK = 2**32 - 1


@dataclass(frozen=True)
class Superblock:
    """Where HDF5 begins to read. `flags` are not 0 while a writer has the file, and after it was killed."""

    flags: int
    end: int  # bytes of the file, as its writer last said
    root: int  # where the root group is

    def packed(self) -> bytes:
        block = LAYOUT.pack(SIGNATURE, 3, 8, 8, self.flags, 0, NOWHERE, self.end, self.root)
        return block + struct.pack("<I", lookup3(block))


def parse(block: bytes) -> Superblock | None:
    """The superblock in a file's first bytes; None if they are not one of our logs', whole and unaltered."""
    if len(block) < SIZE:
        return None
    flags, end, root = (LAYOUT.unpack(block[: LAYOUT.size])[place] for place in (4, 7, 8))
    found = Superblock(flags, end, root)
    return found if found.packed() == block[:SIZE] else None


class LogImage(io.RawIOBase):
    """A log as a file that was closed: as long as its writer meant it to be, with zeros where bytes are missing.

    `size` is how many bytes there are. Where the superblock is `damaged`, that of any log of ours takes its place;
    `is_foreign`: there is not even HDF5's signature.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(SIZE)
        found = parse(head)
        self.damaged = found is None
        self.is_foreign = self.damaged and head[:8] != SIGNATURE
        self.superblock = found or Superblock(0, self.size, SIZE)
        self.length = max(self.superblock.end, self.size)
        self._head = replace(self.superblock, flags=0, end=self.length).packed()
        self._place = 0

    @property
    def is_plain(self) -> bool:
        """Whether HDF5 may have the file as it is: closed by its writer, and as long as that said."""
        return not self.damaged and self.superblock.flags == 0 and self.superblock.end <= self.size

    @property
    def is_cut(self) -> bool:
        """Whether bytes are missing that the superblock speaks of; of a log that was not closed it may know too few."""
        return self.superblock.end > self.size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start = self._place
        self._file.seek(start)
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)
        if start < SIZE:
            head = self._head[start : start + len(view)]
            view[: len(head)] = head
        self._place += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self.length)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def mark_closed(path: Path) -> None:
    """Let every reader of HDF5 have a log whose writer was killed, as `h5clear` does; its rows stay as they are."""
    with LogImage(path) as image:
        if image.damaged or image.is_plain or image.is_cut:
            return
        head = replace(image.superblock, flags=0, end=image.length).packed()
    with path.open("r+b") as file:
        file.write(head)
        os.fsync(file.fileno())


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 with seed 0 of at least one byte: HDF5's checksum of metadata, 32 bits."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    count = -(-len(data) // 12)
    words = struct.unpack(f"<{3 * count}I", data.ljust(12 * count, b"\0"))
    for place in range(0, 3 * count, 3):
        a, b, c = (a + words[place]) & MASK, (b + words[place + 1]) & MASK, (c + words[place + 2]) & MASK
        if place < 3 * (count - 1):  # the last words are mixed otherwise
            for turn in (4, 6, 8, 16, 19, 4):
                a, b, c = b, (c + b) & MASK, (a - c & MASK) ^ _rotated(c, turn)
    for turn in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - _rotated(b, turn)) & MASK, a
    return b


def _rotated(word: int, turn: int) -> int:
    return (word << turn | word >> 32 - turn) & MASK
