"""Checkpoints on disk: a folder a step, a safetensors file a rank, and a manifest that makes it whole.

The manifest is written last, when every rank's file is complete, and holds their sha256. A folder without one, or with
a file that is not what the manifest says, is no checkpoint; the one before it is.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import splitcom_dist
from splitcom_dist.errors import UserError
from splitcom_dist.state import State

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CheckpointFolder:
    """`checkpoints/` of a run directory; `keep` whole checkpoints stay."""

    root: Path
    keep: int

    def write(self, step: int, rank: int, state: State) -> str:
        """One rank's file of the checkpoint after `step`, complete or not there at all; returns its sha256."""
        path = self._file(step, rank)
        with _aside(path) as part:
            save_file(_apart(state), part)
            return _sha256(part)

    def commit(self, step: int, digests: Mapping[int, str]) -> None:
        """Make the checkpoint whole, from every rank's sha256, and remove those that are too many."""
        files = {self._file(step, rank).name: digest for rank, digest in digests.items()}
        manifest = {"step": step, "version": splitcom_dist.__version__, "sha256": files}
        with _aside(self._manifest(step)) as part:
            part.write_text(json.dumps(manifest, indent=1) + "\n")
        whole = [old for old in self.steps() if self._manifest(old).is_file()]
        for old in self.steps():
            if old < step and old not in whole[-self.keep :]:
                shutil.rmtree(self._folder(old))

    def newest(self, world_size: int) -> tuple[int | None, list[str]]:
        """The step of the newest whole checkpoint, or None, and a line about each newer one that is not whole."""
        amiss: list[str] = []
        for step in reversed(self.steps()):
            fault = next(self._faults(step, world_size), None)
            if fault is None:
                return step, amiss
            amiss.append(f"checkpoint after step {step} cannot be used: {fault}")
        return None, amiss

    def read(self, step: int, rank: int) -> dict[str, Tensor]:
        """What `write` was given."""
        return load_file(self._file(step, rank))

    def steps(self) -> list[int]:
        """Of all folders, whole or not, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.root.glob("step_*"))

    def _faults(self, step: int, world_size: int) -> Iterator[str]:
        try:
            expected = json.loads(self._manifest(step).read_text())["sha256"]
        except (OSError, ValueError, KeyError):
            yield f"it has no readable {MANIFEST}: it was never finished"
            return
        if len(expected) != world_size:
            yield f"it is of {len(expected)} ranks, not {world_size}"
        for name, digest in expected.items():
            path = self._folder(step) / name
            if not path.is_file():
                yield f"{name} is missing"
            elif _sha256(path) != digest:
                yield f"{name} is torn or altered: its sha256 is not the manifest's"

    def _folder(self, step: int) -> Path:
        return self.root / f"step_{step:08d}"

    def _manifest(self, step: int) -> Path:
        return self._folder(step) / MANIFEST

    def _file(self, step: int, rank: int) -> Path:
        return self._folder(step) / f"rank_{rank:05d}.safetensors"


def _apart(state: State) -> dict[str, Tensor]:
    """Tensors in storage of their own: safetensors refuses views of one."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path`: its bytes reach the disk before its name, so a crash leaves all or none."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot write the checkpoint: {reason}") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
