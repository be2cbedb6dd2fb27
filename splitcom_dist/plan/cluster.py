"""What was measured of a cluster: how fast each rank computes one batch of a run, and the link of every edge."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
    process_bytes: int  # resident at the peak, without what is the model's


@dataclass(frozen=True)
class EdgeSpeed:
    """Between a client rank and its server."""

    client_rank: int
    server_rank: int
    up: float  # bytes a second
    down: float
    latency_seconds: float  # one way, of a small message


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
