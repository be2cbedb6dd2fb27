"""Checkpoints on disk: a folder a step, two files a rank, and a manifest that makes it whole.

A rank's safetensors file holds what is small and tables of what is large; blocks of that are in its second file, and
in those of earlier steps where they have not changed. The manifest is written last, when every rank's files are
complete, and holds the sha256 of all that are needed. A step without one, or with a file that is not what the manifest
says, is no checkpoint; the one before it is.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import splitcom_dist
from splitcom_dist.checkpoints.blocks import BlockTable, steps_of
from splitcom_dist.devices import to_host
from splitcom_dist.errors import UserError
from splitcom_dist.state import State, apart

MANIFEST = "manifest.json"


@dataclass
class CheckpointFolder:
    """`checkpoints/` of a run directory as one rank sees it; `keep` whole checkpoints stay."""

    root: Path
    keep: int
    _table: BlockTable = field(default_factory=BlockTable)
    _digests: dict[str, str] = field(default_factory=dict)  # of files of blocks, by name

    def write(self, step: int, rank: int, state: State) -> dict[str, str]:
        """One rank's files of the checkpoint after `step`, complete or not there at all; returns the sha256 of all
        files that its part needs, by name below the folder. Written from the host, wherever the state is. Raises
        UserError."""
        state = {name: to_host(tensor.detach()) for name, tensor in state.items()}
        with _aside(self._blocks(step, rank)) as part:
            small = self._table.write(step, state, part)
            self._digests[self._name(self._blocks(step, rank))] = _sha256(part)
        needed = {self._name(self._blocks(used, rank)) for used in self._table.sizes}
        self._digests = {name: digest for name, digest in self._digests.items() if name in needed}
        path = self._file(step, rank)
        with _aside(path) as part:
            save_file(apart(small), part)
            return {**self._digests, self._name(path): _sha256(part)}

    def commit(self, step: int, digests: Mapping[int, Mapping[str, str]], world_size: int) -> None:
        """Make the checkpoint whole, from what `write` returned on every rank, and remove what is not needed now.

        Of ranks that are lost there is nothing in it.
        """
        files = {name: digest for own in digests.values() for name, digest in own.items()}
        manifest = {"step": step, "version": splitcom_dist.__version__, "ranks": world_size}
        manifest |= {"missing": sorted(set(range(world_size)) - set(digests)), "sha256": files}
        with _aside(self._manifest(step)) as part:
            part.write_text(json.dumps(manifest, indent=1) + "\n")
        kept = [old for old in self.steps() if old <= step and self._manifest(old).is_file()][-self.keep :]
        needed = {name for old in kept for name in self._read_manifest(old)["sha256"]}
        needed |= {self._name(self._manifest(old)) for old in kept}
        for old in [old for old in self.steps() if old <= step]:
            for path in self._folder(old).iterdir():
                if self._name(path) not in needed:
                    path.unlink()
            with suppress(OSError):  # not empty
                self._folder(old).rmdir()

    def newest(self, world_size: int) -> tuple[int | None, list[str]]:
        """The step of the newest whole checkpoint, or None, and a line about each newer one that is not whole."""
        amiss: list[str] = []
        for step in reversed(self.steps()):
            if not any(self._folder(step).glob("*.safetensors")):
                continue  # blocks for later ones
            fault = next(self._faults(step, world_size), None)
            if fault is None:
                return step, amiss
            amiss.append(f"checkpoint after step {step} cannot be used: {fault}")
        return None, amiss

    def missing(self, step: int) -> tuple[int, ...]:
        """Ranks that were lost when a whole checkpoint was made."""
        return tuple(self._read_manifest(step)["missing"])

    def read(self, step: int, rank: int) -> dict[str, Tensor]:
        """What `write` was given; the next one goes on from here."""
        small = load_file(self._file(step, rank))
        blocks = {used: self._blocks(used, rank) for used in steps_of(small)}
        digests = self._read_manifest(step)["sha256"]
        self._digests = {self._name(path): digests[self._name(path)] for path in blocks.values()}
        return self._table.read(small, blocks)

    def steps(self) -> list[int]:
        """Of all folders, whole or not, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.root.glob("step_*"))

    def _faults(self, step: int, world_size: int) -> Iterator[str]:
        try:
            manifest = self._read_manifest(step)
            ranks, expected = manifest["ranks"], manifest["sha256"]
        except (OSError, ValueError, KeyError):
            yield f"it has no readable {MANIFEST}: it was never finished"
            return
        if ranks != world_size:
            yield f"it is of {ranks} ranks, not {world_size}"
        for name, digest in expected.items():
            path = self.root / name
            if not path.is_file():
                yield f"{name} is missing"
            elif _sha256(path) != digest:
                yield f"{name} is torn or altered: its sha256 is not the manifest's"

    def _read_manifest(self, step: int) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self._manifest(step).read_text())
        return manifest

    def _folder(self, step: int) -> Path:
        return self.root / f"step_{step:08d}"

    def _manifest(self, step: int) -> Path:
        return self._folder(step) / MANIFEST

    def _file(self, step: int, rank: int) -> Path:
        return self._folder(step) / f"rank_{rank:05d}.safetensors"

    def _blocks(self, step: int, rank: int) -> Path:
        return self._folder(step) / f"rank_{rank:05d}.blocks"

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


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
