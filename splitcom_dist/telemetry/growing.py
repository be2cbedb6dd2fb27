"""Datasets of one dimension that grow while others may read them, written by HDF5's own calls.

Every rank writes its rows between two steps, so what this takes is taken from training. h5py's indexing, `resize` and
`attrs` find out anew at each write what does not change.
"""

import h5py
import numpy as np
from h5py import h5a, h5s, h5t

ROWS = "rows"  # attribute: how many are filled


class GrowingDataset:
    """The rows (n,) of an open dataset of unlimited length. OSError or RuntimeError if the disk refuses."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dtype: np.dtype = dataset.dtype
        self.columns: tuple[str, ...] = dataset.dtype.names or ()
        self.count = int(dataset.shape[0])
        self._id = dataset.id
        self._memory_type = h5t.py_create(self.dtype)
        self._counted = ROWS in dataset.attrs

    def append(self, rows: np.ndarray) -> None:
        """Write rows behind the last one, count them in the attribute if there is one, and hand all that to the
        system."""
        start, self.count = self.count, self.count + len(rows)
        self._id.set_extent((self.count,))
        self._write(start, rows)
        if self._counted:
            h5a.open(self._id, ROWS.encode()).write(np.array(self.count, np.int64))
        self._id.flush()

    def replace(self, rows: np.ndarray) -> None:
        """Write these in place of all that there are."""
        if len(rows) != self.count:
            self.count = len(rows)
            self._id.set_extent((self.count,))
        self._write(0, rows)
        self._id.flush()

    def _write(self, start: int, rows: np.ndarray) -> None:
        there = self._id.get_space()
        there.select_hyperslab((start,), (len(rows),))
        rows = np.ascontiguousarray(rows, self.dtype)
        self._id.write(h5s.create_simple((len(rows),)), there, rows, self._memory_type)
