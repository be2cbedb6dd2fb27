"""Our codec for activations: per position skipped, sent as a change, or sent whole, within an error bound.

S where the relative L2 error of the shared reconstruction is at most tau; else P, the change against it; I where there
is none, or the change is larger than the row: then the change against the nearest row of another position that the
receiver holds, if that is smaller than the row itself. Changes cross in a rotated basis, after some packets in one
learnt from them. The sender decides by what the receiver holds, so the remainder of one visit returns at the next:
||x - reference|| contracts as in EF21 (arXiv 2106.05203). Positions of a batch with the same key are coded once.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.entropy.coder import max_bytes, pack_bytes, unpack_bytes
from splitcom_dist.codec.entropy.groups import max_row_bytes, pack_rows, unpack_rows
from splitcom_dist.codec.frames import Frames, Limits
from splitcom_dist.codec.gated.gate import Similarity, compare
from splitcom_dist.codec.prefix import first_occurrence
from splitcom_dist.codec.references.keyed_store import KeyedStore
from splitcom_dist.codec.sections import as_bytes, as_section
from splitcom_dist.codec.video.basis import Basis, basis_bytes
from splitcom_dist.codec.video.neighbours import Neighbours
from splitcom_dist.codec.video.residual import quantize
from splitcom_dist.codec.video.steps import steps_of
from splitcom_dist.codec.video.transform import Rotation, Transform
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config import LinkCodecConfig
from splitcom_dist.errors import WireError

SKIP, PREDICTED, INTRA, COLD = range(4)  # codes of the mode map
LEARN_FROM = 2  # times d rows make a basis,
PAID = 3  # and its bytes must have been spent so many times on symbols: who sends little cannot win them back
FURTHEST = 2**16 - 1  # how far behind the newest key of a packet a neighbour's key may lie; 0 stands for none


class VideoEnd:
    """What both ends share: the transform, and the store of rows by position key."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, folder: Path | None) -> None:
        self.config = config
        self.width = width
        self.dtype = dtype
        self.transform: Transform = Rotation(width)
        self.store = KeyedStore(width, config.store_dtype, folder, config.store_rows)

    def _begin_anew_if_empty(self) -> None:
        """Both ends of an emptied link go back to the rotation."""
        if not len(self.store):
            self.transform = Rotation(self.width)

    def _rows(self, keys: Tensor, known: Tensor) -> Tensor:
        """References (n, d) float32, zeros where a key is not known."""
        rows = torch.zeros(len(keys), self.width)
        if bool(known.any()):
            rows[known] = self.store.get(keys[known])
        return rows

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on exactly here."""
        basis = self.transform.pack() if isinstance(self.transform, Basis) else b""
        return {"basis": as_section(basis)} | {f"store.{name}": part for name, part in self.store.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the end that gave `state`. Raises UserError if it is another link's, or damaged."""
        self.store.load(_part(state, "store"))
        basis = as_bytes(state, "basis")
        self.transform = Basis.unpack(basis, self.width) if basis else Rotation(self.width)

    def _remember(self, keys: Tensor, modes: Tensor, rows: Tensor) -> Tensor:
        """Update the store after a packet; returns rows (U, d) as the store now has them."""
        sent = (modes == PREDICTED) | (modes == INTRA)
        if bool(sent.any()):
            rows[sent] = self.store.put(keys[sent], rows[sent])
        self.store.drop(keys[modes == COLD])
        self.store.touch(keys[modes != COLD])
        self.store.evict()
        return rows


class VideoEncoder(VideoEnd):
    """The sending end. `theta` is tau told as a cosine, at equal norms: tau = sqrt(2 - 2 theta)."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, folder: Path | None) -> None:
        super().__init__(config, width, dtype, folder)
        self.theta = 1 - config.tau**2 / 2
        self._neighbours = Neighbours(width)
        self._lessons = torch.empty(0, width)  # the newest changes that were sent before there was a basis
        self._spent = 0  # bytes of symbols until then

    def needs_values(self, visit: Visit) -> bool:
        return True

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames; updates the store."""
        assert values is not None
        tau = (2 - 2 * self.theta) ** 0.5
        self._begin_anew_if_empty()
        told = self._learn_basis()
        first, inverse = first_occurrence(visit.keys)
        keys, rows = visit.keys[first], values[first].float()
        known = self.store.known(keys)
        base = self._rows(keys, known)  # what each row is the change of
        size, change = _norm(rows), _norm(rows - base)
        similarity = self._similarity(values.float(), base[inverse], known[inverse], visit)
        modes = torch.full((len(keys),), INTRA, dtype=torch.uint8)
        modes[known & (change < size)] = PREDICTED
        modes[known & (change <= tau * size)] = SKIP
        modes[~size.isfinite()] = COLD
        base[modes == INTRA], behind = self._intra_base(keys, rows, modes == INTRA)
        sent = ((modes == PREDICTED) | (modes == INTRA)).nonzero().flatten()
        aim, bound = self.config.refine * tau * size[sent], tau * size[sent]
        coded = quantize(self.transform, rows[sent] - base[sent], aim, bound, self.config.rounding)
        self._note(rows[sent] - base[sent])
        base[sent] += coded.decoded
        fits = coded.within
        behind = behind[fits[modes[sent] == INTRA]]
        modes[sent[~fits]] = COLD  # sizes that no step fits
        raw = rows[modes == COLD].bfloat16().view(torch.uint8).flatten()
        sections = {
            "side": as_section(told + behind.numpy().astype("<u2").tobytes()),
            "modes": as_section(pack_bytes(modes.numpy())),
            "scales": as_section(pack_bytes(coded.codes[fits].numpy())),
            "symbols": torch.cat([raw, as_section(pack_rows(coded.symbols[fits].numpy(), self.transform.bands))]),
        }
        self._spent += len(sections["symbols"])
        held = self._remember(keys, modes, base)
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

    def _begin_anew_if_empty(self) -> None:
        super()._begin_anew_if_empty()
        if not len(self.store):
            self._neighbours.clear()
            self._lessons = self._lessons[:0]
            self._spent = 0

    def _note(self, changes: Tensor) -> None:
        """Remember changes (n, d) that a basis may be learnt from; no more than it takes."""
        if self.config.basis and isinstance(self.transform, Rotation):
            self._lessons = torch.cat([self._lessons, changes])[-2 * LEARN_FROM * self.width :]

    def _learn_basis(self) -> bytes:
        """Once it can pay, the basis for this packet and all that follow; as bytes, empty at all other times.

        When to buy what pays off only if much follows, without knowing what follows: after having spent as much as it
        could save (ski rental, Karlin et al. 1988). The factor is ours: a basis saves about a fifth to a third.
        """
        if len(self._lessons) < LEARN_FROM * self.width or self._spent < PAID * basis_bytes(self.width):
            return b""
        basis = Basis.learn(self._lessons)
        basis.prepare()
        self.transform, self._lessons = basis, self._lessons[:0]
        return basis.pack()

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on exactly here."""
        own = {"lessons": self._lessons, "spent": torch.tensor(self._spent)}
        return super().state() | own | {f"neighbours.{name}": part for name, part in self._neighbours.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the end that gave `state`."""
        super().load(state)
        self._lessons = state["lessons"]
        self._spent = int(state["spent"])
        self._neighbours.load(_part(state, "neighbours"))
        if isinstance(self.transform, Basis):
            self.transform.prepare()

    def _intra_base(self, keys: Tensor, rows: Tensor, intra: Tensor) -> tuple[Tensor, Tensor]:
        """For each I frame the row it is the change of (n_I, d), and how far behind the newest key that row's is."""
        rows, found = rows[intra], self._neighbours.nearest(rows[intra])
        behind = int(keys.max()) - found
        usable = (found >= 0) & (behind > 0) & (behind <= FURTHEST)
        usable &= self.store.known(found.clamp_min(0))
        base = self._rows(found.clamp_min(0), usable)
        usable &= _norm(rows - base) < _norm(rows)
        base[~usable] = 0
        return base, behind.where(usable, torch.zeros_like(behind))

    def _similarity(self, values: Tensor, references: Tensor, known: Tensor, visit: Visit) -> Similarity | None:
        """Of each sample whose every position has a reference; None if there is no such sample."""
        whole = ~_any_of(~known, visit.lengths)
        return compare(values, references, visit.lengths, whole) if bool(whole.any()) else None


class VideoDecoder(VideoEnd):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        symbols = max_row_bytes(tokens, self.width) + 2 * self.width * tokens
        return Limits(
            side=2 * tokens + basis_bytes(self.width),
            modes=max_bytes(tokens),
            scales=max_bytes(tokens),
            symbols=symbols,
        )

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor:
        """Packet sections -> rows (T, d); then updates the store. Raises WireError, with the store unchanged."""
        self._begin_anew_if_empty()
        first, inverse = first_occurrence(visit.keys)
        keys = visit.keys[first]
        modes = torch.from_numpy(unpack_bytes(as_bytes(sections, "modes"), len(keys)).copy())
        if bool((modes > COLD).any()):
            raise WireError(f"modes: {int(modes.max())} is no kind of frame")
        known = self.store.known(keys)
        for mode, name in ((SKIP, "skipped"), (PREDICTED, "predicted")):
            lacking = (modes == mode) & ~known
            if bool(lacking.any()):
                raise WireError(f"modes: position {int(keys[lacking][0])} is {name} from no reference")
        base = self._rows(keys, known)
        transform, behind = self._side(sections, int((modes == INTRA).sum()))
        base[modes == INTRA] = self._intra_base(keys, behind)
        cold, decoded = self._payload(sections, modes, transform)
        base[(modes == PREDICTED) | (modes == INTRA)] += decoded
        rows = self._remember(keys, modes, base)
        self.transform = transform
        rows[modes == COLD] = cold
        return rows[inverse].to(self.dtype)

    def _side(self, sections: dict[str, Tensor], count: int) -> tuple[Transform, Tensor]:
        """The transform from this packet on, and for each of its I frames how far behind its base's key is (count,)."""
        packed = as_bytes(sections, "side")
        begin = len(packed) - 2 * count
        if begin not in (0, basis_bytes(self.width)):
            raise WireError(f"side: {len(packed)} bytes for {count} positions sent whole")
        transform = Basis.unpack(packed[:begin], self.width) if begin else self.transform
        return transform, torch.from_numpy(np.frombuffer(packed, "<u2", offset=begin).astype(np.int64))

    def _intra_base(self, keys: Tensor, behind: Tensor) -> Tensor:
        """What each of the packet's I frames is the change of (n_I, d)."""
        found = int(keys.max()) - behind
        used = behind > 0
        if bool((used & ((found < 0) | ~self.store.known(found.clamp_min(0)))).any()):
            raise WireError("side: a position is predicted from one that is not held")
        return self._rows(found.clamp_min(0), used)

    def _payload(self, sections: dict[str, Tensor], modes: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
        """Rows sent raw (n_C, d), and decoded changes (n_P + n_I, d)."""
        packed = as_bytes(sections, "symbols")
        count = int(((modes == PREDICTED) | (modes == INTRA)).sum())
        raw = 2 * self.width * int((modes == COLD).sum())
        if len(packed) < raw:
            raise WireError(f"symbols: {len(packed)} bytes cannot hold {raw} of raw positions")
        cold = torch.zeros(0, self.width)
        if raw:
            cold = sections["symbols"][:raw].clone().view(torch.bfloat16).view(-1, self.width).float()
        codes = torch.from_numpy(unpack_bytes(as_bytes(sections, "scales"), count).copy())
        symbols = torch.from_numpy(unpack_rows(packed[raw:], count, transform.bands))
        return cold, transform.inverse(symbols, steps_of(codes))

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d). Raises WireError if a position has none."""
        first, inverse = first_occurrence(visit.keys)
        keys = visit.keys[first]
        if not bool(self.store.known(keys).all()):
            raise WireError(f"samples {visit.samples}: a position has no reference")
        self.store.touch(keys)
        return self.store.get(keys)[inverse].to(self.dtype)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): part for key, part in state.items() if key.startswith(f"{name}.")}


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norm


def _any_of(marks: Tensor, lengths: Tensor) -> Tensor:
    """(T,) bool, (B,) -> (B,) bool: whether any position of a sample is marked."""
    return torch.stack([part.any() for part in marks.split(lengths.tolist())])
