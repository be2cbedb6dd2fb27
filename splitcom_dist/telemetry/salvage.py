"""What can be read of a damaged log, and what cannot: HDF5 works in a child process, which may crash or hang."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import KEPT
from splitcom_dist.telemetry.pieces import ATTRIBUTES, CATALOGUE
from splitcom_dist.telemetry.schema import TABLES
from splitcom_dist.telemetry.superblock import LogImage

READER = (sys.executable, "-m", "splitcom_dist.telemetry.pieces")
SECONDS, BYTES_PER_SECOND = 30.0, 5e6  # how long a child may take: so long, and longer for a large file


@dataclass
class Piece:
    """The rows of one dataset that could be read, mapped from disk; `lost` says which could not, from, to and why."""

    rows: np.ndarray
    promised: int
    lost: list[tuple[int, int, str]]


@dataclass
class Salvage:
    """`attributes` and `pieces` by name; `faults`, one line each, say what could not be read at all."""

    attributes: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_plain: bool = False  # HDF5 would have the file as it is
    names: list[str] = field(default_factory=list)  # of all that it should hold, as far as that could be read

    @property
    def is_whole(self) -> bool:
        """Whether all was read."""
        return not self.faults and not any(piece.lost for piece in self.pieces.values())


@contextmanager
def salvage(path: Path, seconds: float = SECONDS) -> Iterator[Salvage]:
    """Read a rank's log, whatever has become of it; rows can be had inside the `with` only.

    Raises UserError if it is no HDF5 file of ours, not even a damaged one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such log")
    with LogImage(path) as image, TemporaryDirectory(prefix="splitcom-log-") as folder:
        if image.is_foreign:
            raise UserError(f"{path}: no HDF5 file: nothing can be read of it")
        found = Salvage(is_plain=image.is_plain)
        if image.damaged:
            found.faults.append("the superblock")
        elif image.is_cut:
            found.faults.append(f"the last {image.length - image.size:,} of {image.length:,} bytes")
        limit = seconds + image.size / BYTES_PER_SECOND
        for name, told in _pieces(path, Path(folder), [CATALOGUE, ATTRIBUTES, *TABLES, KEPT], limit):
            if name == CATALOGUE:
                found.names = [ATTRIBUTES, *told.get("names", [])]
                found.faults += [f"the list of its tables: {told['fault']}"] if "fault" in told else []
            elif "fault" in told:
                found.faults += [f"{name}: {told['fault']}"] if name in found.names else []
            elif name == ATTRIBUTES:
                found.attributes = told["values"]
            else:
                rows = _rows(Path(folder) / name, np.lib.format.descr_to_dtype(_tuples(told["dtype"])))
                found.pieces[name] = Piece(rows, told["promised"], [tuple(each) for each in told["lost"]])
        yield found


def _pieces(path: Path, folder: Path, wanted: Sequence[str], seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """(piece, what the child told of it); a child that dies or hangs is followed by one for the pieces behind."""
    left = list(wanted)
    while left:
        child = subprocess.Popen(
            [*READER, str(path), str(folder), *left], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, errors = child.communicate(timeout=seconds)
            end = f"HDF5 ended its process with code {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            out, errors = child.communicate()
            end = f"HDF5 did not come back in {seconds:.0f} s"
        lines = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
        if not lines:
            raise UserError(f"{path}: cannot be read: {' '.join(errors.split())[-160:] or end}")
        for line in lines:
            if "ended" in line:
                left.remove(line["ended"])
                yield line["ended"], line
        if left and lines[-1].get("begun") == left[0]:
            yield left.pop(0), {"fault": end}


def _rows(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _tuples(description: Any) -> Any:
    """A dtype's description as it was before JSON made lists of its tuples."""
    if not isinstance(description, list):
        return description
    return [(name, kind, *(tuple(shape) for shape in shapes)) for name, kind, *shapes in description]
