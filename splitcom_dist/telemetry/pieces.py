"""Reads what can be read of one log, in a process of its own: HDF5 may crash, or never return, on a damaged file.

`python -m splitcom_dist.telemetry.pieces LOG FOLDER PIECE...` writes every piece, the attributes or a dataset, into the
folder and tells of each what it found, a line of JSON before and after it.
"""

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from splitcom_dist.telemetry.extent import READ_ERRORS, stretches
from splitcom_dist.telemetry.superblock import LogImage

ATTRIBUTES, CATALOGUE = "attributes", "catalogue"
MEMORY_BYTES = 8 << 30  # of this process: a damaged length must not take the machine's


def main(log: str, folder: str, *pieces: str) -> None:
    warnings.filterwarnings("ignore", "metadata on a dtype")  # h5py marks the encoding of text
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    image = LogImage(Path(log))
    for piece in pieces:
        _tell(begun=piece)
        try:
            with h5py.File(image, "r") as file:
                if piece == CATALOGUE:
                    found: dict[str, Any] = {"names": sorted(file)}
                elif piece == ATTRIBUTES:
                    found = {"values": {name: _plain(file.attrs[name]) for name in file.attrs}}
                else:
                    found = _copy(file, piece, Path(folder) / piece, image.size)
        except READ_ERRORS as error:
            found = {"fault": " ".join(str(error).split())[:160]}
        _tell(ended=piece, **found)


def _copy(file: h5py.File, name: str, path: Path, size: int) -> dict[str, Any]:
    """Write the rows of a dataset that are there to `path`; returns their type, and the rows that are not."""
    dataset = file[name]
    promised = int(dataset.attrs.get("rows", dataset.shape[0]))
    lost = [(dataset.shape[0], promised, "never written")] if promised > dataset.shape[0] else []
    with path.open("wb") as out:
        for each in stretches(dataset, promised, size):
            there, reason = each.there, each.reason
            try:
                dataset[each.start : each.start + there].tofile(out)
            except READ_ERRORS as error:
                there, reason = 0, " ".join(str(error).split())[:160]
            if each.start + there < each.stop:
                lost.append((each.start + there, each.stop, reason))
    return {"dtype": np.lib.format.dtype_to_descr(dataset.dtype), "promised": promised, "lost": lost}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
