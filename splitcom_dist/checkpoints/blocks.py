"""Large tensors of a checkpoint as blocks, of which only those are written that the last checkpoint did not have.

Between two checkpoints a run visits some of its samples, and most references stay as they are: neighbouring rows are
those of one sample. Blocks lie one after another in a file a step; a table says where each one is.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
        state, self.places = {}, {}
        for name, tensor in stored.items():
            if not name.startswith(TABLE):
                state[name] = tensor
                continue
            whole, places = _unpack(tensor)
            raw = whole.view(-1).view(torch.uint8)
            for start, place in zip(range(0, len(raw), BLOCK), places, strict=True):
                block = raw[start : start + BLOCK]
                with file_of[place[0]].open("rb") as file:
                    file.seek(place[1])
                    content = file.read(len(block))
                if len(content) != len(block):
                    raise UserError(f"{file_of[place[0]]}: a block of {name} is cut short")
                block.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
                self.places[_digest(block)] = place
            state[name.removeprefix(TABLE)] = whole
        self.sizes = {step: file_of[step].stat().st_size for step in {place[0] for place in self.places.values()}}
        return state

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
    return {place[0] for name, tensor in stored.items() if name.startswith(TABLE) for place in _unpack(tensor)[1]}


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    yield from tensor.detach().contiguous().view(-1).view(torch.uint8).split(BLOCK)


def _digest(block: Tensor) -> bytes:
    return hashlib.blake2b(block.numpy().data, digest_size=16).digest()


def _pack(tensor: Tensor, places: list[Place]) -> Tensor:
    told = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "places": places}
    return facts(told)


def _unpack(table: Tensor) -> tuple[Tensor, list[Place]]:
    """An empty tensor of that shape, and where its blocks are."""
    told = read_facts(table)
    whole = torch.empty(told["shape"], dtype=getattr(torch, told["dtype"]))
    return whole, [(step, offset) for step, offset in told["places"]]
