"""Codecs that send a sample's matrix in a few bits at every visit, as it is or as its change: AQ-SGD and SplitLite.

With `predictor: delta` a sample's first visit crosses whole in bf16. At every later one both ends add the quantized
change to the reference they share, m += Q(a - m), and the receiver computes on m (AQ-SGD, arXiv 2206.01299, algorithm
1); what one visit's quantizer loses is part of the next visit's change. Samples that are not finite cross whole and are
not remembered. bf16, because FP16 overflows on massive activations and underflows on gradients.
"""

import torch
from torch import Tensor

from splitcom_dist.codec.checksum import host_checksum
from splitcom_dist.codec.frames import Frames, Limits, no_bytes
from splitcom_dist.codec.gated.modes import pack_modes, unpack_modes
from splitcom_dist.codec.rivals.matrices import MATRIX_QUANTIZERS
from splitcom_dist.codec.store import ReferenceStore
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError
from splitcom_dist.state import State, gathered, spread

WHOLE_BYTES = 2  # an element of a sample that is sent whole: bf16


class DeltaEnd:
    """What both ends of a link share: the quantizer, the row width d, and a store that must stay equal."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype) -> None:
        self.predicts = config.predictor == "delta"
        self.width = width
        self.dtype = dtype
        self.store_dtype: torch.dtype = getattr(torch, config.store_dtype)
        self.quantizer = MATRIX_QUANTIZERS[config.quantizer](config)
        self.store = ReferenceStore()

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        return gathered({"store": self.store})

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`."""
        spread(state, {"store": self.store})

    def _reference(self, sample: int, length: int) -> Tensor | None:
        """What a sample is predicted from (length, d), float32: zeros where nothing is; None if it is not known."""
        if not self.predicts:
            return torch.zeros(length, self.width)
        if sample not in self.store or len(self.store.get(sample)) != length:
            return None
        return self.store.get(sample).float()

    def _rebuild(self, reference: Tensor | None, scales: Tensor, symbols: Tensor, length: int) -> Tensor:
        """The rows (length, d) that both ends go on with; without a reference `symbols` are the rows themselves."""
        if reference is None:
            return symbols.clone().view(torch.bfloat16).view(length, self.width).to(self.store_dtype)
        rows = reference + self.quantizer.decode(scales, symbols, length, self.width)
        return rows.to(self.store_dtype) if self.predicts else rows

    def _remember(self, sample: int, rows: Tensor) -> None:
        """A reference is marked by its own checksum: it is made of all packets since the sample crossed whole."""
        if self.predicts and bool(rows.isfinite().all()):
            self.store.put(sample, rows, host_checksum(rows.view(torch.uint8).numpy().data))


class DeltaEncoder(DeltaEnd):
    """The sending end; what it rounds at random it draws from `seed` alone, so that a run can be repeated."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__(config, width, dtype)
        self.theta = config.theta
        self._generator = torch.Generator().manual_seed(seed)

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        return {**super().state(), "generator": self._generator.get_state()}

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`."""
        super().load(state)
        self._generator.set_state(state["generator"])

    def needs_values(self, visit: Visit) -> bool:
        return True

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames: I whole (or every sample, where nothing is predicted), P as changes."""
        assert values is not None
        whole, scales, symbols, cold = [], [], [], 0
        lengths = visit.lengths.tolist()
        for sample, length, rows in zip(visit.samples, lengths, values.float().split(lengths), strict=True):
            reference = self._reference(sample, length)
            if reference is not None and not bool((rows - reference).isfinite().all()):
                reference = None
            if reference is None:
                sent = no_bytes(), rows.bfloat16().view(torch.uint8).flatten()
            else:
                sent = self.quantizer.encode(rows - reference, self._generator)
            rebuilt = self._rebuild(reference, *sent, length)
            self._remember(sample, rebuilt)
            cold += 0 if bool(rebuilt.isfinite().all()) else length
            whole.append(reference is None)
            scales.append(sent[0])
            symbols.append(sent[1])
        modes = torch.tensor(whole)
        changes = int(visit.lengths[~modes].sum()) if self.predicts else 0
        sections = {
            "modes": pack_modes(modes, None, visit.lengths),
            "scales": torch.cat(scales),
            "symbols": torch.cat(symbols),
        }
        return Frames(sections, intra=visit.tokens - changes - cold, predicted=changes, cold=cold)


class DeltaDecoder(DeltaEnd):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most: no quantizer outweighs a whole sample."""
        return Limits(
            modes=(samples + 7) // 8,
            scales=samples * self.quantizer.scale_bytes(tokens, self.width),
            symbols=tokens * self.width * WHOLE_BYTES,
        )

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor:
        """Packet sections -> rows (T, d), which are the references from now on.

        Raises WireError, with the store unchanged, if sizes do not fit or a changed sample has no reference.
        """
        lengths = visit.lengths.tolist()
        modes, scales, symbols = (sections.get(name, no_bytes()) for name in ("modes", "scales", "symbols"))
        whole, _ = unpack_modes(modes, visit.lengths, rescale=False)
        references: list[Tensor | None] = []
        for sample, length, is_whole in zip(visit.samples, lengths, whole.tolist(), strict=True):
            references.append(None if is_whole else self._reference(sample, length))
            if not is_whole and references[-1] is None:
                raise WireError(f"modes: sample {sample} is sent as a change, but has no reference of {length} tokens")
        scale_parts = self._parts("scales", scales, lengths, whole)
        symbol_parts = self._parts("symbols", symbols, lengths, whole)
        rebuilt = list(map(self._rebuild, references, scale_parts, symbol_parts, lengths))
        for sample, rows in zip(visit.samples, rebuilt, strict=True):
            self._remember(sample, rows)
        return torch.cat([rows.to(self.dtype) for rows in rebuilt])

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d). Raises WireError if a sample has none."""
        return torch.cat(self.store.recall(visit.samples, visit.lengths)).to(self.dtype)

    def _parts(self, name: str, section: Tensor, lengths: list[int], whole: Tensor) -> list[Tensor]:
        """A section cut into samples."""
        quantized = self.quantizer.scale_bytes if name == "scales" else self.quantizer.symbol_bytes
        raw = 0 if name == "scales" else self.width * WHOLE_BYTES
        sizes = [
            raw * length if is_whole else quantized(length, self.width)
            for length, is_whole in zip(lengths, whole.tolist(), strict=True)
        ]
        if len(section) != sum(sizes):
            raise WireError(f"{name}: {len(section)} bytes, {sum(sizes)} expected for {sum(lengths)} tokens")
        return list(section.split(sizes))


def whole_bytes(lengths: list[int], width: int) -> int:
    """Bytes of the sections of a batch that is sent whole."""
    return (len(lengths) + 7) // 8 + sum(lengths) * width * WHOLE_BYTES


def delta_bytes(config: LinkCodecConfig, lengths: list[int], width: int) -> int:
    """Bytes of the sections of a batch none of which is sent whole."""
    quantizer = MATRIX_QUANTIZERS[config.quantizer](config)
    sizes = (quantizer.scale_bytes(length, width) + quantizer.symbol_bytes(length, width) for length in lengths)
    return (len(lengths) + 7) // 8 + sum(sizes)
