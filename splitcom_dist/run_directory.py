"""The run directory: where everything of one run lies, made once and never overwritten."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from splitcom_dist.config.files import to_yaml
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("telemetry", "log", "config.yaml")  # of a new run, the last one makes it whole


@dataclass(frozen=True)
class RunDirectory:
    root: Path

    @property
    def telemetry(self) -> Path:
        return self.root / "telemetry"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def references(self, client: int, link: str, side: str) -> Path:
        """Where one end of a client's link keeps its references, if on disk."""
        return self.root / "references" / f"client_{client:05d}_{link}_{side}"

    def parked(self, rank: int, client: int) -> Path:
        """Where a rank lays the state of a logical client that it does not keep in memory."""
        return self.root / "parked" / f"rank_{rank:05d}_client_{client:05d}.safetensors"

    def forget_references(self) -> None:
        """Remove what references and parked clients were on disk: they are of use to their own launch only."""
        for name in ("references", "parked"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def rank_log(self, rank: int) -> Path:
        return self.root / "log" / f"rank_{rank:05d}.log"

    def rank_telemetry(self, rank: int) -> Path:
        return self.telemetry / f"rank_{rank:05d}.h5"


def default_root(config: Config) -> Path:
    """runs/<data>-<model>-<codec>-<local time>"""
    model = config.model.name.rstrip("/").rpartition("/")[2]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.data.name}-{model}-{config.codec.name}-{stamp}"


def is_unused(root: Path) -> bool:
    """Whether no run is there: nothing at all, or a batch job's slurm/, and perhaps what `create` was killed over."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    return not root.exists() or ("slurm" in names and names <= {"slurm", *PARTS[:-1]})


def create(root: Path, config: Config) -> RunDirectory:
    """Make the directory and write config.yaml into it; raises UserError if it is there already."""
    if not is_unused(root):
        raise UserError(f"{root} exists: a run is never overwritten, choose another --out")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # Made aside: a run that is killed here must not leave a directory that could not be resumed.
        aside = RunDirectory(Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent)))
        aside.root.chmod(0o777 & ~_umask())
        aside.telemetry.mkdir()
        (aside.root / "log").mkdir()
        (aside.root / "config.yaml").write_text(to_yaml(config))
        if root.exists():
            for name in PARTS:
                (aside.root / name).rename(root / name)
            aside.root.rmdir()
        else:
            aside.root.rename(root)
    except OSError as error:
        raise UserError(f"{root}: cannot make the run directory: {error.strerror}") from None
    return RunDirectory(root)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Write a safetensors file so that a crash leaves the old one or the new one, never a part."""
    # Imported here: torch takes seconds, and who only looks at a run does not need it.
    from safetensors.torch import save_file

    from splitcom_dist.state import apart

    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".part")
    save_file(apart(tensors), fresh)
    fresh.replace(path)


def log_to(path: Path) -> None:
    """Send this rank's log records, and nothing else, to its file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)  # Python's and torch's warnings belong there too
