"""Reference keys by token prefix: opaque integers that are equal exactly where a causal model's activations are.

Two samples with the same first tokens have the same activations there (given the same weights and no dropout), so a
reference and its frames serve all of them. This holds for what the model computes going forward; a gradient also
depends on the tokens behind its position and can never be shared so. Both ends assign keys by one rule, fresh ones
being consecutive integers in the order of the manifests, so no key crosses: a new sample names a told one (its parent)
and how many positions they share. That is all the server learns of the text: which positions are equal.
"""

from typing import NamedTuple, overload

import numpy as np
from torch import Tensor, from_numpy, tensor

from splitcom_dist.devices import to_device
from splitcom_dist.errors import UserError, WireError
from splitcom_dist.state import State

News = dict[int, tuple[int | None, int]]  # new sample: its parent, and how many first positions are the parent's


class _Path(NamedTuple):
    keys: np.ndarray  # int64, (length,), read-only
    parent: int | None
    shared: int


class KeyBook:
    """The keys of one client's samples, as the server keeps them; never sees a token."""

    def __init__(self) -> None:
        self._paths: dict[int, _Path] = {}  # in the order of learning
        self._next = 0

    def learn(self, sample: int, length: int, parent: int | None, shared: int) -> np.ndarray:
        """Keys (length,) of a sample whose first `shared` positions are those of `parent`; the rest get fresh keys.

        Told again in the same words, a sample keeps its keys. Raises WireError, with the book unchanged, for an
        unknown parent, a shared length that parent or sample do not have, or a known sample with another path.
        """
        known = self._paths.get(sample)
        if known is not None:
            if (len(known.keys), known.parent, known.shared) != (length, parent, shared):
                raise WireError(f"manifest: sample {sample} is known by another path")
            return known.keys
        if parent is not None and parent not in self._paths:
            raise WireError(f"manifest: sample {sample} has the unknown parent {parent}")
        if (parent is None) != (shared == 0):
            raise WireError(f"manifest: sample {sample} has parent {parent} and shares {shared} positions")
        prefix = np.empty(0, np.int64) if parent is None else self._paths[parent].keys
        if length < 1 or not 0 <= shared <= min(length, len(prefix)):
            raise WireError(f"manifest: sample {sample} of length {length} shares {shared} of {len(prefix)} positions")
        fresh = np.arange(self._next, self._next + length - shared)
        keys = np.concatenate([prefix[:shared], fresh])
        keys.flags.writeable = False  # handed out without a copy: a change would part the two ends
        self._paths[sample] = _Path(keys, parent, shared)
        self._next += len(fresh)
        return keys

    def paths(self, samples: list[int], lengths: list[int], news: News) -> list[np.ndarray]:
        """Keys of each sample of one batch, (length,) each, after learning its news.

        Raises WireError, with nothing of the batch learnt, where `learn` does, for an unknown sample without a path,
        and for a known one of another length.
        """
        known = len(self._paths)
        try:
            for sample, length in zip(samples, lengths, strict=True):
                if sample in news:
                    self.learn(sample, length, *news[sample])
                elif sample not in self._paths:
                    raise WireError(f"manifest: sample {sample} came without a path and none is known")
                elif len(self.path(sample)) != length:
                    raise WireError(f"manifest: sample {sample} has length {length}, not {len(self.path(sample))}")
        except WireError:
            while len(self._paths) > known:
                _, path = self._paths.popitem()
                self._next -= len(path.keys) - path.shared
            raise
        return [self.path(sample) for sample in samples]

    def path(self, sample: int) -> np.ndarray:
        """Keys (length,) of a known sample, int64 and read-only; KeyError for any other."""
        return self._paths[sample].keys

    def origin(self, sample: int) -> tuple[int | None, int]:
        """Parent and shared length of a known sample, as they were told; KeyError for any other."""
        return self._paths[sample].parent, self._paths[sample].shared

    def knows(self, sample: int) -> bool:
        return sample in self._paths

    @property
    def samples(self) -> list[int]:
        """The known samples, ascending."""
        return sorted(self._paths)

    def clear(self) -> None:
        """Forget every sample. Keys start at 0 again: references kept by key must go, too."""
        self._paths.clear()
        self._next = 0

    def state(self) -> State:
        """What was learnt, in order, as int64 vectors (n,): samples, lengths, parents (-1 = none), shared."""
        rows = [
            (sample, len(path.keys), -1 if path.parent is None else path.parent, path.shared)
            for sample, path in self._paths.items()
        ]
        columns = np.array(rows, np.int64).reshape(-1, 4).T.copy()
        return dict(zip(("samples", "lengths", "parents", "shared"), map(from_numpy, columns), strict=True))

    def load(self, state: State) -> None:
        """Become the book that gave this state."""
        self.clear()
        columns = (state[name].tolist() for name in ("samples", "lengths", "parents", "shared"))
        for sample, length, parent, shared in zip(*columns, strict=True):
            self.learn(sample, length, None if parent < 0 else parent, shared)


class PrefixTree:
    """The keys of one client's samples, as the client makes them from tokens.

    A radix tree whose nodes never split: each sample adds one run, the tokens that it does not share, and a branch
    that names the key and the token after which the run begins. Without `sharing` every sample has keys of its own.
    """

    def __init__(self, sharing: bool = True) -> None:
        self._sharing = sharing
        self._book = KeyBook()
        self._runs: dict[int, np.ndarray] = {}  # by sample, in the order of the book: int32 tokens of its fresh keys
        self._branches: dict[tuple[int, int], int] = {}  # (key before the run or -1, first token) -> sample
        self._untold: News = {}

    def paths(self, samples: list[int], tokens: list[np.ndarray]) -> list[np.ndarray]:
        """Keys of the input positions of each sample, all tokens but the last: (length - 1,) each, int64, read-only.

        A known sample keeps its keys; its tokens are not looked at again. Raises ValueError for a sample of fewer
        than two tokens, and for a known one with another number of them.
        """
        for sample, sequence in zip(samples, tokens, strict=True):
            length = len(sequence) - 1
            if length < 1 or (self._book.knows(sample) and len(self._book.path(sample)) != length):
                raise ValueError(f"sample {sample} has {length + 1} tokens: at least 2, and the same at every visit")
        for sample, sequence in zip(samples, tokens, strict=True):
            if not self._book.knows(sample):
                self._add(sample, sequence[:-1])
        return [self._book.path(sample) for sample in samples]

    def news(self) -> News:
        """Parent and shared length of each sample that got keys since the last call, in that order.

        To be told to the server once, with the batch of this step.
        """
        news, self._untold = self._untold, {}
        return news

    def clear(self) -> None:
        """Forget everything, because the server has lost its book; every sample is news again."""
        self._book.clear()
        self._runs.clear()
        self._branches.clear()
        self._untold.clear()

    def state(self) -> State:
        """The book's state, the tokens of all runs (int32), how many samples are untold, and whether keys are shared.

        Holds text where keys are shared: it is for the client's own checkpoint and no one else's.
        """
        return {
            **self._book.state(),
            "tokens": from_numpy(np.concatenate([np.empty(0, np.int32), *self._runs.values()])),
            "untold": tensor([len(self._untold)]),
            "sharing": tensor([self._sharing]),
        }

    def load(self, state: State) -> None:
        """Become the tree that gave this state; raises UserError if that one shared keys and this one does not."""
        if bool(state["sharing"][0]) != self._sharing:
            raise UserError(f"prefix_sharing={self._sharing}: the checkpoint was written with the other; set that one")
        self.clear()
        self._book.load(state)
        if self._sharing:
            tokens = state["tokens"].numpy().copy()
            runs = np.split(tokens, (state["lengths"] - state["shared"]).numpy().cumsum())[:-1]
            for sample, run, depth in zip(state["samples"].tolist(), runs, state["shared"].tolist(), strict=True):
                self._grow(sample, run, depth)
        first_untold = len(state["samples"]) - int(state["untold"][0])
        for sample in state["samples"][first_untold:].tolist():
            self._untold[sample] = self._book.origin(sample)

    def _add(self, sample: int, tokens: np.ndarray) -> None:
        parent, shared = self._deepest(tokens)  # None, 0 without sharing: nothing ever grows there
        self._book.learn(sample, len(tokens), parent, shared)
        if self._sharing:
            self._grow(sample, tokens[shared:].astype(np.int32), shared)
        self._untold[sample] = (parent, shared)

    def _deepest(self, tokens: np.ndarray) -> tuple[int | None, int]:
        """The sample that first had the longest known prefix of `tokens`, and the length of that prefix."""
        parent, depth = None, 0
        branch = self._branches.get((-1, int(tokens[0])))
        while branch is not None:
            parent, run = branch, self._runs[branch]
            differs = np.flatnonzero(run[: len(tokens) - depth] != tokens[depth : depth + len(run)])
            depth += int(differs[0]) if len(differs) else min(len(run), len(tokens) - depth)
            if depth == len(tokens):
                break
            branch = self._branches.get((int(self._book.path(parent)[depth - 1]), int(tokens[depth])))
        return parent, depth

    def _grow(self, sample: int, run: np.ndarray, depth: int) -> None:
        """Hang the run of a sample at the end of the first `depth` positions of its path."""
        self._runs[sample] = run
        if len(run):
            before = int(self._book.path(sample)[depth - 1]) if depth else -1
            self._branches[before, int(run[0])] = sample


@overload
def first_occurrence(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def first_occurrence(keys: Tensor) -> tuple[Tensor, Tensor]: ...
def first_occurrence(keys: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray] | tuple[Tensor, Tensor]:
    """Rows at which a key is there for the first time, ascending (U,), and for each row which of these it equals (T,).

    `keys[rows][inverse] == keys`. Both int64, on the CPU or the device of `keys`.
    """
    if isinstance(keys, Tensor):
        rows, inverse = first_occurrence(keys.cpu().numpy())
        return to_device(from_numpy(rows), keys.device), to_device(from_numpy(inverse), keys.device)
    _, first, by_value = np.unique(keys, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[by_value]
