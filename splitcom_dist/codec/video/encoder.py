"""Our codec for activations: per position skipped, sent as a change, or sent whole, within an error bound.

S where the relative L2 error of the shared reconstruction is at most tau; else P, the change against it; I where there
is none, or the change is larger than the row: then the change against the nearest row of another position that the
receiver holds, if that is smaller than the row itself. Changes cross in a rotated basis, after some packets in one
learnt from them. The sender decides by what the receiver holds, so the remainder of one visit returns at the next:
||x - reference|| contracts as in EF21 (arXiv 2106.05203). Positions of a batch with the same key are coded once.
"""

from pathlib import Path

import torch
from torch import Tensor

from splitcom_dist.codec.entropy.coder import pack_bytes
from splitcom_dist.codec.frames import Frames
from splitcom_dist.codec.gated.gate import Similarity, compare
from splitcom_dist.codec.prefix import first_occurrence
from splitcom_dist.codec.sections import as_section
from splitcom_dist.codec.video.basis import Basis
from splitcom_dist.codec.video.end import COLD, INTRA, PREDICTED, SKIP, VideoEnd
from splitcom_dist.codec.video.lessons import Lessons
from splitcom_dist.codec.video.neighbours import FURTHEST, Neighbours
from splitcom_dist.codec.video.payload import pack_modes, pack_payload
from splitcom_dist.codec.video.residual import quantize
from splitcom_dist.codec.video.transform import Rotation
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.state import State, gathered, part_of


class VideoEncoder(VideoEnd):
    """The sending end. `theta` is tau told as a cosine, at equal norms: tau = sqrt(2 - 2 theta)."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, folder: Path | None) -> None:
        super().__init__(config, width, dtype, folder)
        self.theta = 1 - config.tau**2 / 2
        self._neighbours = Neighbours(width)
        self._lessons = Lessons(width)

    def needs_values(self, visit: Visit) -> bool:
        return True

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames; updates the store."""
        assert values is not None
        tau = (2 - 2 * self.theta) ** 0.5
        self.begin_anew_if_empty()
        told = self._tell_basis()
        first, inverse = first_occurrence(visit.keys)
        keys, rows = visit.keys[first], values[first].float()
        known = self.store.known(keys)
        base = self.rows(keys, known)  # what each row is the change of
        size, change = _norm(rows), _norm(rows - base)
        similarity = self._similarity(values.float(), base[inverse], known[inverse], visit)
        modes = torch.full((len(keys),), INTRA, dtype=torch.uint8)
        modes[known & (change < size)] = PREDICTED
        modes[known & (change <= tau * size)] = SKIP
        modes[~size.isfinite()] = COLD
        base[modes == INTRA], behind = self._intra_base(keys, rows, modes == INTRA)
        sent = ((modes == PREDICTED) | (modes == INTRA)).nonzero().flatten()
        aim, bound = self.config.refine * tau * size[sent], tau * size[sent]
        changes = rows[sent] - base[sent]
        coded = quantize(self.transform, changes, aim, bound, self.config.rounding)
        base[sent] += coded.decoded
        fits = coded.within
        behind = behind[fits[modes[sent] == INTRA]]
        modes[sent[~fits]] = COLD  # sizes that no step fits
        sections = {
            "side": as_section(told + behind.numpy().astype("<u2").tobytes()),
            "modes": pack_modes(modes),
            "scales": as_section(pack_bytes(coded.codes[fits].numpy())),
            "symbols": pack_payload(rows[modes == COLD], coded.symbols[fits], self.transform.bands),
        }
        if self.config.basis and isinstance(self.transform, Rotation):
            self._lessons.note(changes, len(sections["symbols"]))
        held = self.remember(keys, modes, base)
        self._neighbours.add(keys[modes == INTRA], held[modes == INTRA])
        counts = torch.bincount(modes, minlength=4).tolist()
        return Frames(
            sections,
            intra=counts[INTRA],
            predicted=counts[PREDICTED],
            skipped=visit.tokens - sum(counts[1:]),  # positions that share another's frame among them
            cold=counts[COLD],
            similarity=similarity,
            sent=_any_of(modes[inverse] != SKIP, visit.lengths),
        )

    def begin_anew_if_empty(self) -> None:
        super().begin_anew_if_empty()
        if not len(self.store):
            self._neighbours.clear()
            self._lessons.clear()

    def _tell_basis(self) -> bytes:
        """The basis for this packet and all that follow, once it can pay; as bytes, empty at all other times."""
        if not self._lessons.suffice:
            return b""
        basis = Basis.learn(self._lessons.changes)
        basis.prepare()
        self._lessons.clear()
        self.transform = basis
        return basis.pack()

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        return {**super().state(), **gathered({"neighbours": self._neighbours, "lessons": self._lessons})}

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`."""
        super().load(state)
        self._neighbours.load(part_of(state, "neighbours"))
        self._lessons.load(part_of(state, "lessons"))
        if isinstance(self.transform, Basis):
            self.transform.prepare()

    def _intra_base(self, keys: Tensor, rows: Tensor, intra: Tensor) -> tuple[Tensor, Tensor]:
        """For each I frame the row it is the change of (n_I, d), and how far behind the newest key that row's is."""
        rows, found = rows[intra], self._neighbours.nearest(rows[intra])
        behind = int(keys.max()) - found
        usable = (found >= 0) & (behind > 0) & (behind <= FURTHEST)
        usable &= self.store.known(found.clamp_min(0))
        base = self.rows(found.clamp_min(0), usable)
        usable &= _norm(rows - base) < _norm(rows)
        base[~usable] = 0
        return base, behind.where(usable, torch.zeros_like(behind))

    def _similarity(self, values: Tensor, references: Tensor, known: Tensor, visit: Visit) -> Similarity | None:
        """Of each sample whose every position has a reference; None if there is no such sample."""
        whole = ~_any_of(~known, visit.lengths)
        return compare(values, references, visit.lengths, whole) if bool(whole.any()) else None


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norm


def _any_of(marks: Tensor, lengths: Tensor) -> Tensor:
    """(T,) bool, (B,) -> (B,) bool: whether any position of a sample is marked."""
    return torch.stack([part.any() for part in marks.split(lengths.tolist())])
