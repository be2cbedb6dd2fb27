"""Encoder and decoder of one link of one client: gate x quantizer over a reference store.

After every packet the two stores are equal; a packet that cannot be decoded leaves the decoder's store untouched.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from splitcom_dist.codec.gate import Similarity, compare, cosine_gate
from splitcom_dist.codec.modes import pack_modes, unpack_modes
from splitcom_dist.codec.quantize import QUANTIZERS, Quantizer
from splitcom_dist.codec.ragged import row_mask
from splitcom_dist.codec.sketch import projection, token_gain
from splitcom_dist.codec.store import ReferenceStore
from splitcom_dist.config import LinkCodecConfig
from splitcom_dist.errors import WireError


@dataclass(frozen=True)
class Frames:
    """One encoded batch: three packet sections (uint8), and token counts by kind."""

    modes: Tensor  # one bit a sample, 1 = sent, then a gain for every skipped row if the link rescales
    scales: Tensor
    symbols: Tensor
    lengths: Tensor  # (B,)
    intra: int
    skipped: int
    similarity: Similarity | None = None
    sent: Tensor | None = None  # (B,) bool

    @property
    def sections(self) -> dict[str, Tensor]:
        return {"modes": self.modes, "scales": self.scales, "symbols": self.symbols}


class LinkEnd:
    """What both ends of a link share: the quantizer, the row width d, and a store that must stay equal."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype) -> None:
        self.config = config
        self.width = width
        self.dtype = dtype
        self.store_dtype: torch.dtype = getattr(torch, config.store_dtype)
        self.quantizer: Quantizer = QUANTIZERS[config.quantizer](dtype)
        self.store = ReferenceStore()

    def _remember(
        self, samples: list[int], lengths: list[int], references: Tensor, scales: Tensor, symbols: Tensor
    ) -> None:
        """Store what was sent: `references` (T, ...) are the rows of `samples`, one after another."""
        scale_bytes, symbol_bytes = self.quantizer.scale_bytes(1), self.quantizer.symbol_bytes(1, self.width)
        scale_view, symbol_view = scales.cpu().numpy().data, symbols.cpu().numpy().data
        start = 0
        for sample, length, reference in zip(samples, lengths, references.split(lengths), strict=True):
            stop = start + length
            crc = zlib.crc32(scale_view[start * scale_bytes : stop * scale_bytes])
            crc = zlib.crc32(symbol_view[start * symbol_bytes : stop * symbol_bytes], crc)
            self.store.put(sample, reference.clone(), crc)
            start = stop


class Encoder(LinkEnd):
    """The sending end. `seed` fixes the random projection of this client and link."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__(config, width, dtype)
        self.theta = config.theta
        self._projection = projection(config.sketch_rows, width, seed) if config.gate == "cosine" else None

    def needs_values(self, samples: list[int]) -> bool:
        """False if this batch can be encoded without computing what would be sent."""
        if self.config.gate == "once":
            return not bool(self.store.known(samples).all())
        return self.config.gate != "never"

    def encode(self, values: Tensor | None, samples: list[int], lengths: Tensor) -> Frames:
        """Rows (T, d) of `samples` (B distinct ids) with `lengths` (B,) -> Frames; updates the store.

        `values` may be None where `needs_values` is False.
        """
        if values is None:
            values = torch.empty(0, self.width, dtype=self.dtype)
        if self.config.gate == "never":
            return Frames(_no_bytes(), _no_bytes(), _no_bytes(), lengths, intra=0, skipped=int(lengths.sum()))
        if self.config.gate == "always":
            scales, symbols = self.quantizer.encode(values)
            return Frames(_no_bytes(), scales, symbols, lengths, intra=len(values), skipped=0)
        known = self.store.known(samples)
        similarity, send, gains = None, ~known, None
        if self._projection is not None:
            sketch, reference = values.float() @ self._projection, self._references(samples, lengths)
            if self.config.rescale:  # the gate judges what the decoder would make of a skip
                gains = token_gain(sketch, reference).bfloat16()
                reference = reference * gains.unsqueeze(1)
            similarity = compare(sketch, reference, lengths, known)
            send = cosine_gate(similarity, self.theta)
        rows = values[row_mask(send, lengths)] if send.any() else values[:0]
        scales, symbols = self.quantizer.encode(rows)
        self._remember_sent(samples, lengths, send, scales, symbols)
        skipped = int(lengths.sum()) - len(rows)
        modes = pack_modes(send, gains, lengths)
        return Frames(modes, scales, symbols, lengths, len(rows), skipped, similarity, send)

    def _references(self, samples: list[int], lengths: Tensor) -> Tensor:
        assert self._projection is not None
        blank = torch.zeros(int(lengths.max()), self._projection.shape[1])
        return torch.cat(
            [
                self.store.get(sample) if sample in self.store else blank[:length]
                for sample, length in zip(samples, lengths.tolist(), strict=True)
            ]
        )

    def _remember_sent(
        self, samples: list[int], lengths: Tensor, send: Tensor, scales: Tensor, symbols: Tensor
    ) -> None:
        """Keep the sketch of what the decoder now holds, not of what was computed: rounding is synchronised."""
        tokens = int(lengths[send].sum())
        references = torch.empty(tokens, 0)
        if self._projection is not None:
            decoded = self.quantizer.decode(scales, symbols, tokens, self.width)
            references = decoded.to(self.store_dtype).float() @ self._projection
        self._remember(_marked(samples, send), lengths[send].tolist(), references, scales, symbols)


class Decoder(LinkEnd):
    """The receiving end."""

    def decode(self, modes: Tensor, scales: Tensor, symbols: Tensor, samples: list[int], lengths: Tensor) -> Tensor:
        """Packet sections -> the activation (T, d), skipped samples from the store; then updates the store.

        Raises WireError, with the store unchanged, if sizes do not fit or a skipped sample has no reference.
        """
        if self.config.gate == "always":
            tokens = int(lengths.sum())
            self._check_sizes(scales, symbols, tokens)
            return self.quantizer.decode(scales, symbols, tokens, self.width)
        send, gains = unpack_modes(modes, lengths, self.config.rescale)
        tokens = int(lengths[send].sum())
        self._check_sizes(scales, symbols, tokens)
        for sample, length, is_sent in zip(samples, lengths.tolist(), send.tolist(), strict=True):
            if not is_sent and (sample not in self.store or len(self.store.get(sample)) != length):
                raise WireError(f"modes: sample {sample} is skipped but has no reference of {length} tokens")
        fresh = self.quantizer.decode(scales, symbols, tokens, self.width)
        values = self._assemble(fresh, samples, lengths, send)
        if gains is not None:
            values[row_mask(~send, lengths)] *= gains.to(self.dtype).unsqueeze(1)
        self._remember(_marked(samples, send), lengths[send].tolist(), fresh.to(self.store_dtype), scales, symbols)
        return values

    def _assemble(self, fresh: Tensor, samples: list[int], lengths: Tensor, send: Tensor) -> Tensor:
        rows = iter(fresh.split(lengths[send].tolist()))
        return torch.cat(
            [
                next(rows) if is_sent else self.store.get(sample).to(self.dtype)
                for sample, is_sent in zip(samples, send.tolist(), strict=True)
            ]
        )

    def _check_sizes(self, scales: Tensor, symbols: Tensor, tokens: int) -> None:
        expected = self.quantizer.scale_bytes(tokens), self.quantizer.symbol_bytes(tokens, self.width)
        for name, section, size in zip(("scales", "symbols"), (scales, symbols), expected, strict=True):
            if len(section) != size:
                raise WireError(f"{name}: {len(section)} bytes, {size} expected for {tokens} tokens")


def _marked(samples: list[int], marks: Tensor) -> list[int]:
    return [sample for sample, marked in zip(samples, marks.tolist(), strict=True) if marked]


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)
