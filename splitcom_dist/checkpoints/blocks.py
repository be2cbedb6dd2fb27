"""Large tensors of a checkpoint as blocks, of which only those are written that the last checkpoint did not have.

Between two checkpoints a run visits some of its samples, and most references stay as they are: neighbouring rows are
those of one sample. Blocks lie one after another in a file a step; a table says where each one is.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from splitcom_dist.errors import UserError
from splitcom_dist.state import State, facts, read_facts

BLOCK = 1 << 16  # bytes
LARGE = 16 * BLOCK  # from here on a tensor is cut into blocks
WASTE = 2.0  # files may weigh so many times what is of use in them; then everything is written anew
TABLE = "blocks."  # before the names of tensors that are tables

Place = tuple[int, int]  # the step whose file holds a block, and where in it


@dataclass
class BlockTable:
    """Where the blocks of the last checkpoint of one rank are, by their content."""

    places: dict[bytes, Place] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)  # bytes of each step's file that is of use

    def write(self, step: int, state: State, path: Path) -> dict[str, Tensor]:
        """Put what is new of large tensors into the file `path` of this step; returns what stays small.

        Raises OSError. The table is then as before.
        """
        tables, used = self._append(step, state, path, self.places)
        if sum(used.values()) * WASTE < sum(size for old, size in self._weights(step, path).items() if old in used):
            tables, used = self._append(step, state, path, {})
        weights = self._weights(step, path)
        self.sizes = {old: weights[old] for old in used}
        self.places = {digest: place for table in tables.values() for digest, place in table}
        small = {name: tensor for name, tensor in state.items() if name not in tables}
        return small | {
            f"{TABLE}{name}": _pack(state[name], [place for _, place in table]) for name, table in tables.items()
        }

    def read(self, stored: State, file_of: Mapping[int, Path]) -> dict[str, Tensor]:
        """The state that was given to `write`, which goes on from here. Raises UserError if a block is not there."""
        state = {name: tensor for name, tensor in stored.items() if not name.startswith(TABLE)}
        self.places = {}
        with ExitStack() as open_files:
            files = {step: open_files.enter_context(path.open("rb")) for step, path in file_of.items()}
            for name, table in stored.items():
                if name.startswith(TABLE):
                    state[name.removeprefix(TABLE)] = self._assemble(read_facts(table), files)
        self.sizes = {step: path.stat().st_size for step, path in file_of.items()}
        return state

    def _assemble(self, told: Mapping[str, Any], files: Mapping[int, BinaryIO]) -> Tensor:
        """A large tensor from its table."""
        whole = torch.empty(told["shape"], dtype=getattr(torch, told["dtype"]))
        raw = whole.view(-1).view(torch.uint8)
        for start, (step, offset) in zip(range(0, len(raw), BLOCK), told["places"], strict=True):
            block = raw[start : start + BLOCK]
            files[step].seek(offset)
            content = files[step].read(len(block))
            if len(content) != len(block):
                raise UserError(f"{files[step].name}: a block is cut short")
            block.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            self.places[_digest(block)] = step, offset
        return whole

    def _append(
        self, step: int, state: State, path: Path, known: Mapping[bytes, Place]
    ) -> tuple[dict[str, list[tuple[bytes, Place]]], dict[int, int]]:
        """Where each block of each large tensor is, and how many bytes of each file are of use."""
        tables: dict[str, list[tuple[bytes, Place]]] = {}
        known, used, end = dict(known), dict[int, int](), 0
        seen: set[bytes] = set()
        with path.open("wb") as file:
            for name, tensor in state.items():
                if tensor.nbytes < LARGE:
                    continue
                tables[name] = []
                for block in _blocks(tensor):
                    digest = _digest(block)
                    if digest not in known:
                        known[digest] = step, end
                        end += file.write(block.numpy().data)
                    if digest not in seen:
                        seen.add(digest)
                        used[known[digest][0]] = used.get(known[digest][0], 0) + len(block)
                    tables[name].append((digest, known[digest]))
        return tables, used

    def _weights(self, step: int, path: Path) -> dict[int, int]:
        return self.sizes | {step: path.stat().st_size}


def steps_of(stored: State) -> set[int]:
    """The steps whose files a stored state needs."""
    tables = [read_facts(tensor) for name, tensor in stored.items() if name.startswith(TABLE)]
    return {step for table in tables for step, _ in table["places"]}


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    yield from tensor.detach().contiguous().view(-1).view(torch.uint8).split(BLOCK)


def _digest(block: Tensor) -> bytes:
    return hashlib.blake2b(block.numpy().data, digest_size=16).digest()


def _pack(tensor: Tensor, places: list[Place]) -> Tensor:
    told = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "places": places}
    return facts(told)
