"""Sketches of what a rank sends on one link, a row a sample and visit: what a study of redundancy is made of.

They depend on the values alone, not on the codec, and nothing that is trained or sent depends on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitcom_dist.codec.gated.sketch import projection
from splitcom_dist.codec.ragged import sample_index
from splitcom_dist.codec.visit import Visit
from splitcom_dist.devices import to_device, to_host
from splitcom_dist.state import State
from splitcom_dist.telemetry.count_sketch import SEED, CountSketch, position_in_sample
from splitcom_dist.telemetry.drift_measures import drift_measures
from splitcom_dist.telemetry.hdf5 import RankLog

MASSIVE = 4  # channels: the largest of a link, which can outweigh all others together
TOKEN_ROWS = 32  # of the projection of the others, kept of every position until the next visit

TextFacts = Callable[[int], tuple[int, int]]  # sample -> its targets, and first positions that an earlier sample has


def unknown_text(sample: int) -> tuple[int, int]:
    """The facts of a sample whose sender has neither its text nor its labels."""
    return -1, -1


@dataclass
class SketchLog:
    """The sketches of one sending end; it keeps a small projection of every sample's last visit (T, 36) float32."""

    log: RankLog
    sketch: CountSketch
    width: int
    text: TextFacts = unknown_text
    _kept: dict[int, Tensor] = field(default_factory=dict)
    _massive: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _matrix: Tensor | None = None
    _step: int = -1
    _logged: set[int] = field(default_factory=set)  # samples, in that step

    def record(self, step: int, epoch: int, client: int, link: int, visit: Visit, values: Tensor) -> None:
        """Log a batch of rows (T, d). What is sent again in the same step, after a resync, is not logged again."""
        if step != self._step:
            self._step, self._logged = step, set()
        if not self._logged.isdisjoint(visit.samples):
            return
        self._logged |= set(visit.samples)
        rows, lengths = values.detach().float(), visit.lengths
        squares = rows.square()
        if not len(self._massive):
            self._massive = to_host(squares.mean(0)).nan_to_num().topk(min(MASSIVE, self.width)).indices
        now = to_host(rows @ to_device(self._projection(), rows.device))
        targets, shared = torch.tensor([self.text(sample) for sample in visit.samples]).unbind(1)
        of_rows = to_host(squares.sum(1)).double()
        energy = _sums(of_rows, lengths)
        columns = {
            "norm": energy.sqrt(),
            "energy_first": of_rows[position_in_sample(lengths) == 0] / energy,
            "energy_massive": _sums(now[:, TOKEN_ROWS:].double().square().sum(1), lengths) / energy,
            "values": to_host(self.sketch(rows, lengths)).double() / energy.sqrt().clamp_min(1e-300).unsqueeze(1),
            "target_start": torch.where(targets >= 0, lengths - targets, -1),
            "shared": shared,
        }
        columns |= drift_measures(now, self._before(visit), lengths, columns["target_start"], len(self._massive))
        self._kept |= zip(visit.samples, (part.clone() for part in now.split(lengths.tolist())), strict=True)
        rows_of = {name: column.numpy() for name, column in columns.items()}
        for index, (sample, tokens) in enumerate(zip(visit.samples, lengths.tolist(), strict=True)):
            told = {name: column[index] for name, column in rows_of.items()}
            named = {"step": step, "epoch": epoch, "client": client, "link": link, "sample": sample, "tokens": tokens}
            self.log.append("sketch", **named, **told)

    def forget(self) -> None:
        """What comes next is the output of other blocks: it is compared with nothing that was there before."""
        self._kept.clear()
        self._massive, self._matrix = torch.empty(0, dtype=torch.int64), None

    def state(self) -> State:
        """The massive channels, and what is kept: samples (n,), their lengths (n,), rows (T, 36)."""
        kept, columns = list(self._kept.values()), TOKEN_ROWS + len(self._massive)
        return {
            "massive": self._massive,
            "samples": torch.tensor(list(self._kept), dtype=torch.int64),
            "lengths": torch.tensor([len(rows) for rows in kept], dtype=torch.int64),
            "rows": torch.cat([torch.empty(0, columns), *kept]),
        }

    def load(self, state: State) -> None:
        """Go on as the one that gave `state`."""
        self._massive, self._matrix = state["massive"].clone(), None
        parts = state["rows"].clone().split(state["lengths"].tolist())
        self._kept = dict(zip(state["samples"].tolist(), parts, strict=True))

    def _projection(self) -> Tensor:
        """(d, 36): to the projection of all but the massive channels, and to these."""
        if self._matrix is None:
            small = projection(TOKEN_ROWS, self.width, SEED)
            small[self._massive] = 0
            self._matrix = torch.cat([small, torch.eye(self.width)[:, self._massive]], dim=1)
        return self._matrix

    def _before(self, visit: Visit) -> Tensor:
        """What is kept of a batch (T, 36); NaN for samples that were not here before."""
        blank = torch.full((int(visit.lengths.max()), TOKEN_ROWS + len(self._massive)), torch.nan)
        pairs = zip(visit.samples, visit.lengths.tolist(), strict=True)
        return torch.cat([self._kept.get(sample, blank[:length]) for sample, length in pairs])


def _sums(rows: Tensor, lengths: Tensor) -> Tensor:
    """Of each sample's rows: (T,), (B,) -> (B,)."""
    return torch.zeros(len(lengths), dtype=rows.dtype).index_add_(0, sample_index(lengths), rows)
