"""Codecs that send a sample whole or not at all: a gate and a quantizer over a store by sample.

SplitLoRA's wire, FP16, INT8, SplitCom and `frozen` are made of this. After every packet the two stores are equal; a
packet that cannot be decoded leaves the decoder's store untouched. Rows and references may be on a device: what is
made of them there is copied to the host in no more places than a packet needs (see the calls of `to_host`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from splitcom_dist.codec.checksum import host_checksum, row_checksums
from splitcom_dist.codec.frames import Frames, Limits, no_bytes
from splitcom_dist.codec.fused import fused
from splitcom_dist.codec.gated.gate import compare, cosine_gate
from splitcom_dist.codec.gated.modes import modes_bytes, pack_modes, unpack_modes
from splitcom_dist.codec.gated.sketch import projection, token_gain, token_measures
from splitcom_dist.codec.quantize import Quantizer, quantizer_of
from splitcom_dist.codec.ragged import row_mask, rows_of
from splitcom_dist.codec.residence import ON_HOST, Residence
from splitcom_dist.codec.store import ReferenceStore
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import to_device, to_host
from splitcom_dist.errors import WireError
from splitcom_dist.state import State, gathered, spread


class GatedEnd:
    """What both ends of a link share: the quantizer, the row width d, and a store that must stay equal."""

    def __init__(self, config: LinkCodecConfig, width: int, dtype: torch.dtype, residence: Residence = ON_HOST) -> None:
        self.config = config
        self.residence = residence
        self.width = width
        self.dtype = dtype
        self.store_dtype: torch.dtype = getattr(torch, config.store_dtype)
        self.quantizer: Quantizer = quantizer_of(config, dtype, residence.fused)
        self.store = ReferenceStore(residence.compute)

    def state(self) -> State:
        """What `load` needs to go on exactly here."""
        return gathered({"store": self.store})

    def load(self, state: State) -> None:
        """Go on as the end that gave `state`."""
        spread(state, {"store": self.store})

    def _remember(
        self, samples: list[int], lengths: list[int], references: Tensor, scales: Tensor, symbols: Tensor
    ) -> None:
        """Store what was sent: `references` (T, ...) are the rows of `samples`, one after another.

        Scales and symbols are those that cross, wherever they lie: both ends make the same checksums of them.
        """
        checksums = row_checksums if self.residence.apart else self._host_checksums
        sums = checksums(scales, symbols, lengths)
        for sample, checksum, reference in zip(samples, sums, references.split(lengths), strict=True):
            self.store.put(sample, reference.clone(), checksum)

    def _host_checksums(self, scales: Tensor, symbols: Tensor, lengths: Sequence[int]) -> list[int]:
        """Of each sample's scales and symbols, which are in host memory."""
        scale_bytes, symbol_bytes = self.quantizer.scale_bytes(1), self.quantizer.symbol_bytes(1, self.width)
        scale_view, symbol_view = scales.numpy().data, symbols.numpy().data
        sums, start = [], 0
        for length in lengths:
            stop = start + length
            of_scales = host_checksum(scale_view[start * scale_bytes : stop * scale_bytes])
            sums.append(host_checksum(symbol_view[start * symbol_bytes : stop * symbol_bytes], before=of_scales))
            start = stop
        return sums


class GatedEncoder(GatedEnd):
    """The sending end. `seed` fixes the random projection of this client and link."""

    def __init__(
        self, config: LinkCodecConfig, width: int, dtype: torch.dtype, seed: int, residence: Residence = ON_HOST
    ) -> None:
        super().__init__(config, width, dtype, residence)
        self.theta = config.theta
        self._projection: Tensor | None = None
        self._measure = fused(token_measures) if residence.fused else token_measures
        if config.gate == "cosine":
            self._projection = projection(config.sketch_rows, width, seed).to(residence.compute)

    def needs_values(self, visit: Visit) -> bool:
        """False if this batch can be encoded without computing what would be sent."""
        if self.config.gate == "once":
            return not bool(self.store.known(visit.samples).all())
        return self.config.gate != "never"

    def encode(self, values: Tensor | None, visit: Visit) -> Frames:
        """Rows (T, d) of a batch -> Frames; updates the store. None only where `needs_values` is False."""
        samples, lengths = visit.samples, visit.lengths
        if values is None:
            values = torch.empty(0, self.width, dtype=self.dtype, device=self.residence.compute)
        if self.config.gate == "never":
            return Frames(skipped=visit.tokens)
        if self.config.gate == "always":
            scales, symbols = self._crossing(*self.quantizer.encode(values))
            return Frames({"scales": scales, "symbols": symbols}, intra=len(values))
        known = self.store.known(samples)
        similarity, send, gains = None, ~known, None
        if self._projection is not None:
            sketch, reference = values.float() @ self._projection, self._references(samples, lengths)
            if self.config.rescale:  # the gate judges what the decoder would make of a skip
                gains = token_gain(sketch, reference).bfloat16()
                reference = reference * gains.unsqueeze(1)
            similarity = compare(sketch, reference, lengths, known, self._measure)
            send = cosine_gate(similarity, self.theta)
        rows = rows_of(send, lengths, values) if send.any() else values[:0]
        scales, symbols = self._remember_sent(samples, lengths, send, *self.quantizer.encode(rows))
        sections = {"modes": pack_modes(send, gains, lengths), "scales": scales, "symbols": symbols}
        skipped = visit.tokens - len(rows)
        return Frames(sections, intra=len(rows), skipped=skipped, similarity=similarity, sent=send)

    def _references(self, samples: list[int], lengths: Tensor) -> Tensor:
        assert self._projection is not None
        blank = torch.zeros(int(lengths.max()), self._projection.shape[1], device=self.residence.compute)
        return torch.cat(
            [
                self.store.get(sample) if sample in self.store else blank[:length]
                for sample, length in zip(samples, lengths.tolist(), strict=True)
            ]
        )

    def _remember_sent(
        self, samples: list[int], lengths: Tensor, send: Tensor, scales: Tensor, symbols: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep the sketch of what the decoder now holds, not of what was computed: rounding is synchronised.

        Returns scales and symbols where they are to cross.
        """
        tokens = int(lengths[send].sum())
        references = torch.empty(tokens, 0, device=self.residence.compute)
        if self._projection is not None:
            decoded = self.quantizer.decode(scales, symbols, tokens, self.width)
            references = decoded.to(self.store_dtype).float() @ self._projection
        scales, symbols = self._crossing(scales, symbols)
        self._remember(_marked(samples, send), lengths[send].tolist(), references, scales, symbols)
        return scales, symbols

    def _crossing(self, scales: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and symbols where the transport takes them."""
        if self.residence.payload == symbols.device:
            return scales, symbols
        joined = to_host(torch.cat([scales, symbols]))  # one copy, one wait
        return joined[: len(scales)], joined[len(scales) :]


class GatedDecoder(GatedEnd):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        if self.config.gate == "never":
            return Limits(intra=(0, 0))
        scales, symbols = self.quantizer.scale_bytes, self.quantizer.symbol_bytes
        modes = modes_bytes(self.config, samples, tokens)
        intra = scales(1), symbols(1, self.width)
        return Limits(modes=modes, scales=scales(tokens), symbols=symbols(tokens, self.width), intra=intra)

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor | None:
        """Packet sections -> the activation (T, d), skipped samples from the store; then updates the store.

        None if nothing ever crosses. Raises WireError, with the store unchanged, if sizes do not fit or a skipped
        sample has no reference.
        """
        samples, lengths = visit.samples, visit.lengths
        if self.config.gate == "never":
            return None
        modes, scales, symbols = (sections.get(name, no_bytes()) for name in ("modes", "scales", "symbols"))
        if self.config.gate == "always":
            tokens = int(lengths.sum())
            self._check_sizes(scales, symbols, tokens)
            return self._decoded(scales, symbols, tokens)
        send, gains = unpack_modes(modes, lengths, self.config.rescale)
        tokens = int(lengths[send].sum())
        self._check_sizes(scales, symbols, tokens)
        recalled = iter(self.store.recall(_marked(samples, ~send), lengths[~send]))
        fresh = self._decoded(scales, symbols, tokens)
        rows = iter(fresh.split(lengths[send].tolist()))
        values = torch.cat([next(rows) if is_sent else next(recalled).to(self.dtype) for is_sent in send.tolist()])
        if gains is not None:
            rescaled = to_device(row_mask(~send, lengths).nonzero().flatten(), values.device)
            values[rescaled] *= to_device(gains, values.device).to(self.dtype).unsqueeze(1)
        self._remember(_marked(samples, send), lengths[send].tolist(), fresh.to(self.store_dtype), scales, symbols)
        return values

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d). Raises WireError if a sample has none."""
        return torch.cat(self.store.recall(visit.samples, visit.lengths)).to(self.dtype)

    def _decoded(self, scales: Tensor, symbols: Tensor, tokens: int) -> Tensor:
        """The rows (tokens, d) of scales and symbols as they have crossed."""
        device = self.residence.compute
        return self.quantizer.decode(to_device(scales, device), to_device(symbols, device), tokens, self.width)

    def _check_sizes(self, scales: Tensor, symbols: Tensor, tokens: int) -> None:
        expected = self.quantizer.scale_bytes(tokens), self.quantizer.symbol_bytes(tokens, self.width)
        for name, section, size in zip(("scales", "symbols"), (scales, symbols), expected, strict=True):
            if len(section) != size:
                raise WireError(f"{name}: {len(section)} bytes, {size} expected for {tokens} tokens")


def _marked(samples: list[int], marks: Tensor) -> list[int]:
    return [sample for sample, marked in zip(samples, marks.tolist(), strict=True) if marked]
