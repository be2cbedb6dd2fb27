"""Which rows of a table are in its file: HDF5 reads what lies behind the end of a file that was cut off as zeros."""

from collections.abc import Iterator
from dataclasses import dataclass

import h5py

READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError)  # what h5py raises about a damaged file


@dataclass(frozen=True)
class Stretch:
    """Rows of one chunk, of which the first `there` are in the file; `reason` says why not all are."""

    start: int
    stop: int
    there: int
    reason: str = ""


def stretches(dataset: h5py.Dataset, rows: int, size: int) -> Iterator[Stretch]:
    """The first `rows` of a chunked table, chunk by chunk, in a file of which `size` bytes are there."""
    for start in range(0, min(rows, dataset.shape[0]), dataset.chunks[0]):
        stop = min(start + dataset.chunks[0], rows, dataset.shape[0])
        try:
            place = dataset.id.get_chunk_info_by_coord((start,)).byte_offset
        except READ_ERRORS as error:
            yield Stretch(start, stop, 0, " ".join(str(error).split()))
            continue
        there = 0 if place is None else max(0, size - place) // dataset.dtype.itemsize
        there = min(there, stop - start)
        yield Stretch(start, stop, there, "" if there == stop - start else "behind the end of the file")
