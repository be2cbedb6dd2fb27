"""The receiving end of the video codec: nothing changes before the whole packet has been understood."""

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.entropy.coder import max_bytes, unpack_bytes
from splitcom_dist.codec.frames import Limits
from splitcom_dist.codec.prefix import first_occurrence
from splitcom_dist.codec.sections import as_bytes
from splitcom_dist.codec.video.basis import Basis, basis_bytes
from splitcom_dist.codec.video.end import COLD, INTRA, PREDICTED, SKIP, VideoEnd
from splitcom_dist.codec.video.payload import max_payload_bytes, unpack_modes, unpack_payload
from splitcom_dist.codec.video.steps import steps_of
from splitcom_dist.codec.video.transform import Transform
from splitcom_dist.codec.visit import Visit
from splitcom_dist.errors import WireError


class VideoDecoder(VideoEnd):
    """The receiving end."""

    def limits(self, samples: int, tokens: int) -> Limits:
        """What a packet of so many samples and positions may weigh at most."""
        return Limits(
            side=2 * tokens + basis_bytes(self.width),
            modes=max_bytes(tokens),
            scales=max_bytes(tokens),
            symbols=max_payload_bytes(tokens, self.width),
        )

    def decode(self, sections: dict[str, Tensor], visit: Visit) -> Tensor:
        """Packet sections -> rows (T, d); then updates the store. Raises WireError, with the store unchanged."""
        self.begin_anew_if_empty()
        first, inverse = first_occurrence(visit.keys)
        keys = visit.keys[first]
        modes = unpack_modes(sections, len(keys), COLD)
        known = self.store.known(keys)
        for mode, name in ((SKIP, "skipped"), (PREDICTED, "predicted")):
            lacking = (modes == mode) & ~known
            if bool(lacking.any()):
                raise WireError(f"modes: position {int(keys[lacking][0])} is {name} from no reference")
        base = self.rows(keys, known)
        transform, behind = self._side(sections, int((modes == INTRA).sum()))
        base[modes == INTRA] = self._intra_base(keys, behind)
        cold, decoded = self._payload(sections, modes, transform)
        base[(modes == PREDICTED) | (modes == INTRA)] += decoded
        rows = self.remember(keys, modes, base)
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
        return self.rows(found.clamp_min(0), used)

    def _payload(self, sections: dict[str, Tensor], modes: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
        """Rows sent raw (n_C, d), and decoded changes (n_P + n_I, d)."""
        count = int(((modes == PREDICTED) | (modes == INTRA)).sum())
        codes = torch.from_numpy(unpack_bytes(as_bytes(sections, "scales"), count))
        cold, symbols = unpack_payload(sections, int((modes == COLD).sum()), count, transform.bands)
        return cold, transform.inverse(symbols, steps_of(codes))

    def recall(self, visit: Visit) -> Tensor:
        """The references of a batch (T, d). Raises WireError if a position has none."""
        first, inverse = first_occurrence(visit.keys)
        keys = visit.keys[first]
        if not bool(self.store.known(keys).all()):
            raise WireError(f"samples {visit.samples}: a position has no reference")
        self.store.touch(keys)
        return self.store.get(keys)[inverse].to(self.dtype)
