"""A transport's exceptions in the words of the layout, and which rank is behind them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from splitcom_dist.errors import PeerLost


@contextmanager
def naming(name: str, ranks: Sequence[int], what: str) -> Iterator[None]:
    """Turn the backend's RuntimeError into PeerLost: `rank 3 (server) is gone during up_activation, step 4`."""
    try:
        yield
    except RuntimeError as error:
        silent = "imed out" in str(error)
        reason = "was silent for longer than runtime.timeout_seconds" if silent else "is gone"
        raise PeerLost(f"{name} {reason} during {what}", tuple(ranks)) from error


def culprits(rank: int, waiting: Mapping[int, Sequence[int]]) -> set[int]:
    """Whom `rank` waits for in the end: follow who waits for whom to the ranks that wait for nobody.

    `waiting` holds, for every rank that has given up waiting, the ranks it waited for. In a ring of ranks that all
    wait for each other nobody is to blame, and the set is empty.
    """
    found, seen, todo = set(), {rank}, list(waiting.get(rank, ()))
    while todo:
        other = todo.pop()
        if other in seen:
            continue
        seen.add(other)
        if other in waiting:
            todo += waiting[other]
        else:
            found.add(other)
    return found
