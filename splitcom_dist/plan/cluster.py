"""What was measured of a cluster: how fast each rank computes one batch of a run, and the link of every edge; of codecs
whose bytes depend on what is sent, how much runs have sent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitcom_dist.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Line:
    """Seconds of a part with one block, and what each further block adds."""

    first: float
    further: float

    def __call__(self, blocks: int) -> float:
        return self.first + (blocks - 1) * self.further


@dataclass(frozen=True)
class CodecSeconds:
    encode: float  # packing and checksum included
    decode: float


@dataclass(frozen=True)
class RankSpeed:
    """Seconds on one rank for the batch that the profile is of."""

    rank: int
    role: str  # client or server
    forward: Line  # of a head, or of a body with LM head and loss
    backward: Line
    optimizer: Line  # a step over the adapters of so many blocks
    codecs: Mapping[str, CodecSeconds]  # by preset, one packet of the batch
    process_bytes: int | None  # resident at the peak, without what is the model's; None: not known


@dataclass(frozen=True)
class EdgeSpeed:
    """Between a client rank and its server."""

    client_rank: int
    server_rank: int
    up: float  # bytes a second
    down: float
    latency_seconds: float  # one way, of a small message


@dataclass(frozen=True)
class CodecRun:
    """A codec as a run had it; shares are by link, of the bytes that would have crossed if nothing had been skipped."""

    codec: Mapping[str, Any]  # that group of the run's configuration
    control: Mapping[str, Any]
    first: Mapping[str, float]  # in the first epoch
    later: Mapping[str, float] | None  # in those after it; None: the run had none


@dataclass(frozen=True)
class Profile:
    model: str
    dtype: str
    samples: int  # of the batch
    length: int  # its padded positions a sample
    tokens: int  # its real positions
    targets: int
    ranks: Sequence[RankSpeed]
    edges: Sequence[EdgeSpeed]
    runs: Mapping[str, CodecRun] = field(default_factory=dict)  # by codec, where the profile is from logs
    notes: Sequence[str] = field(default_factory=list)  # what it does not know

    def of_role(self, role: str) -> list[RankSpeed]:
        return [speed for speed in self.ranks if speed.role == role]


def write(profile: Profile, path: Path) -> None:
    path.write_text(json.dumps({"version": VERSION, **asdict(profile)}, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Profile:
    """The Profile that `write` wrote. Raises UserError, one line."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise UserError(f"--profile {path}: written by another version; run `splitcom profile` again")
        values["ranks"] = [rank_from(rank) for rank in values["ranks"]]
        values["edges"] = [EdgeSpeed(**edge) for edge in values["edges"]]
        values["runs"] = {name: CodecRun(**run) for name, run in values.get("runs", {}).items()}
        return Profile(**values)
    except OSError as error:
        raise UserError(f"--profile {path}: {error.strerror}; `splitcom profile` writes one") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"--profile {path}: not a profile; `splitcom profile` writes one") from None


def rank_from(values: Mapping[str, Any]) -> RankSpeed:
    """A RankSpeed from its fields as JSON has them."""
    lines = {name: Line(**values[name]) for name in ("forward", "backward", "optimizer")}
    codecs = {name: CodecSeconds(**seconds) for name, seconds in values["codecs"].items()}
    return RankSpeed(**{**values, **lines, "codecs": codecs})
