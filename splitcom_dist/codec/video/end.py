"""What both ends of a video link share, and the kinds of frames it has."""

from pathlib import Path

import torch
from torch import Tensor

from splitcom_dist.codec.references.keyed_store import KeyedStore
from splitcom_dist.codec.sections import as_bytes, as_section
from splitcom_dist.codec.video.basis import Basis
from splitcom_dist.codec.video.transform import Rotation, Transform
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.state import State, part_of

SKIP, PREDICTED, INTRA, COLD = range(4)  # codes of the mode map


class VideoEnd:
    """What both ends share: the transform, and the store of rows by position key."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, folder: Path | None) -> None:
        self.config = config
        self.width = width
        self.dtype = dtype
        self.transform: Transform = Rotation(width)
        self.store = KeyedStore(width, config.store_dtype, folder, config.store_rows)

    def begin_anew_if_empty(self) -> None:
        """Both ends of an emptied link go back to the rotation."""
        if not len(self.store):
            self.transform = Rotation(self.width)

    def rows(self, keys: Tensor, known: Tensor) -> Tensor:
        """References (n, d) float32, zeros where a key is not known."""
        rows = torch.zeros(len(keys), self.width)
        if bool(known.any()):
            rows[known] = self.store.get(keys[known])
        return rows

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        basis = self.transform.pack() if isinstance(self.transform, Basis) else b""
        return {"basis": as_section(basis)} | {f"store.{name}": part for name, part in self.store.state().items()}

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`. Raises UserError if it is another link's, or damaged."""
        self.store.load(part_of(state, "store"))
        basis = as_bytes(state, "basis")
        self.transform = Basis.unpack(basis, self.width) if basis else Rotation(self.width)

    def remember(self, keys: Tensor, modes: Tensor, rows: Tensor) -> Tensor:
        """Update the store after a packet; returns rows (U, d) as the store now has them."""
        sent = (modes == PREDICTED) | (modes == INTRA)
        if bool(sent.any()):
            rows[sent] = self.store.put(keys[sent], rows[sent])
        self.store.drop(keys[modes == COLD])
        self.store.touch(keys[modes != COLD])
        self.store.evict()
        return rows
