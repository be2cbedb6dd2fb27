"""Who takes part: a client rank may be lost and come back, and what comes back is a new incarnation of it.

Incarnations are counted from 0. An incarnation takes part from when the aggregator admits it, all at the start, until
somebody says that it is lost, which is never taken back: who was only slow, and hears that he is lost, starts anew.
"""

from collections.abc import Sequence

from splitcom_dist.board import Board


class Membership:
    """The record of it, on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changes = 0

    def enter(self) -> int:
        """The incarnation of this rank that this process is; with it all earlier ones are lost."""
        incarnation = self._board.count(f"incarnation/{self._board.rank}", 1) - 1
        if incarnation:
            self.lose(self._board.rank, incarnation - 1)
        return incarnation

    def admitted(self, rank: int) -> int:
        """The incarnation that was admitted last."""
        return int(self._board.heard(f"admitted/{rank}") or 0)

    def is_lost(self, rank: int, incarnation: int | None = None) -> bool:
        """Whether an incarnation is lost, by itself the one that was admitted last."""
        incarnation = self.admitted(rank) if incarnation is None else incarnation
        return self._board.heard(self.lost_key(rank, incarnation)) is not None

    @staticmethod
    def lost_key(rank: int, incarnation: int) -> str:
        """What is announced when it is lost."""
        return f"lost/{rank}/{incarnation}"

    def lose(self, rank: int, incarnation: int) -> None:
        """Say that an incarnation is lost."""
        self._board.announce(self.lost_key(rank, incarnation))
        self._board.count("changes", 1)

    def admit(self, rank: int, incarnation: int) -> None:
        self._board.announce(f"admitted/{rank}", str(incarnation))
        self._board.count("changes", 1)

    def has_changed(self) -> bool:
        """Whether anybody was lost or admitted since this was last asked."""
        before, self._changes = self._changes, self._board.count("changes")
        return self._changes != before

    def present(self, ranks: Sequence[int]) -> list[int]:
        """Those of `ranks` that take part."""
        return [rank for rank in ranks if not self.is_lost(rank)]

    def ask(self, incarnation: int) -> None:
        """Ask to be admitted."""
        self._board.announce(f"asks/{self._board.rank}", str(incarnation))

    def asking(self, rank: int) -> int:
        """The incarnation that has asked last, 0 if none of them had to."""
        return int(self._board.heard(f"asks/{rank}") or 0)

    def waiting(self, ranks: Sequence[int]) -> list[int]:
        """Those of `ranks` of which an incarnation asks to be admitted and is not lost yet."""
        asking = {rank: self.asking(rank) for rank in ranks}
        return [rank for rank, new in asking.items() if new > self.admitted(rank) and not self.is_lost(rank, new)]
