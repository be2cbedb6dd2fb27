"""Who of the ranks takes part, and what they tell each other together: lost ones are waited for by nobody."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist

from splitcom_dist.board import Board
from splitcom_dist.comm.groups import patience_seconds
from splitcom_dist.ear import Ear
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place
from splitcom_dist.presence.anew import ANEW
from splitcom_dist.presence.membership import Membership
from splitcom_dist.presence.pulse import SILENCE, Fate, Pulse
from splitcom_dist.rendezvous import find_rendezvous


class Assembly(Board):
    """All ranks of a launch at one board; where the run goes on without client ranks that are lost (`tolerant`), the
    others."""

    def __init__(self, place: Place, layout: Layout, timeout_seconds: float, tolerant: bool) -> None:
        """Find the board. Raises UserError where nothing tells where it is, or if it cannot be reached."""
        self.place = place
        self.timeout = timeout_seconds
        self.tolerant = tolerant
        # A job that is started again meets no old news.
        self._attempt = f"splitcom/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._pulse: Pulse | None = None
        meeting = find_rendezvous(place, os.environ, timeout_seconds)
        self.meeting = meeting.address, meeting.port
        try:
            open_store = meeting.reach_store if ANEW in os.environ else meeting.open_store
            self._connection = open_store(place, timeout_seconds)
            store = dist.PrefixStore(self._attempt, self._connection)
            patience = patience_seconds(timeout_seconds, tolerant)
            super().__init__(store, place.rank, layout, patience, Ear(self._another_store))
            self.membership = Membership(self)
            self.incarnation = self.membership.enter() if tolerant else 0
        except (RuntimeError, ValueError) as error:
            raise self.cannot_meet(error) from None
        self._check_return()

    def cannot_meet(self, error: Exception) -> UserError:
        """What to raise when the others are not there."""
        address, port = self.meeting
        return UserError(
            f"cannot meet the other {self.place.world_size - 1} ranks at {address}:{port} "
            f"within {self.timeout:.0f} s: {str(error).splitlines()[0]}"
        )

    @property
    def comes_back(self) -> bool:
        """Whether this process takes the place of one that was lost."""
        return self.incarnation > 0

    def hear_all(
        self, key: str, ranks: Iterable[int], what: str, without: Callable[[int], bool] | None = None
    ) -> dict[int, str]:
        """What each of `ranks` announces under `key/rank`, but for those `without` whom it is: lost client ranks."""
        without = without or self.gone
        told = {rank: self.wait_until(partial(self._word, key, rank, without), [rank], what) for rank in ranks}
        return {rank: text for rank, text in told.items() if text}

    def _word(self, key: str, rank: int, without: Callable[[int], bool]) -> str | None:
        """None if it is still to come, nothing if it is done without."""
        return self.heard(f"{key}/{rank}") or ("" if without(rank) else None)

    def sum_over_ranks(
        self, name: str, values: torch.Tensor, without: Callable[[int], bool] | None = None
    ) -> torch.Tensor:
        """The element-wise sum of an int64 vector over all ranks, for small facts agreed at start and end.

        The aggregator adds up, `without` the ranks of which that is true, by itself those that are lost; who has come
        back hears what the others have agreed on.
        """
        what = f"a sum over all ranks ({name})"
        self.announce(f"{name}/{self.rank}", json.dumps(values.tolist()))
        if self.rank != self.layout.aggregator_rank:
            return torch.tensor(json.loads(self.wait_for(name, [self.layout.aggregator_rank], what)))
        told = self.hear_all(name, range(self.layout.world_size), what, without)
        total = torch.tensor([json.loads(text) for text in told.values()]).sum(0)
        self.announce(name, json.dumps(total.tolist()))
        return total

    def live(self, end: Callable[[Fate, list[int]], None]) -> None:
        """Begin to tell that this process lives, and to listen to the others; `end` hears, from a thread, why it must
        not go on as it is."""
        layout = self.layout
        mine = [rank for rank in layout.client_ranks if layout.server_of(rank) == self.rank]
        essential = [*layout.body_ranks, layout.aggregator_rank]
        watched = range(layout.world_size) if self.rank == layout.aggregator_rank else [*mine, *essential]
        self._pulse = Pulse(
            self._another_store(),
            self.rank,
            self.membership.lost_key(self.rank, self.incarnation),
            watched,
            essential,
            self.silence_seconds,
            end,
        )
        self._pulse.start()

    @property
    def silence_seconds(self) -> float:
        """After so long without a beat a process is taken for lost."""
        return SILENCE * self.timeout

    def silent(self, rank: int) -> bool:
        """Whether a client rank, of a run that goes on without it, has told nothing for too long."""
        return self._pulse is not None and rank in self.layout.client_ranks and self._pulse.silent(rank)

    def gone(self, rank: int) -> bool:
        """Whether a client rank is lost; one that has been silent for too long is, from now on."""
        if not self.tolerant or rank not in self.layout.client_ranks:
            return False
        if self.membership.is_lost(rank):
            return True
        if self.silent(rank):
            self.lose(rank)
            return True
        return False

    def lose(self, rank: int) -> None:
        """Say that a client rank is lost."""
        self.membership.lose(rank, self.membership.admitted(rank))

    def welcome(self, rank: int) -> None:
        """A client rank that is lost has come back."""
        if self._pulse is not None:
            self._pulse.hear(rank)

    def enter_again(self) -> None:
        """This rank was lost when the run that is resumed was saved: it comes back to it."""
        self.incarnation = self.membership.enter()

    def report_failure_apart(self) -> bool:
        """`report_failure` from another thread than the one that may be waiting on the store."""
        try:
            return bool(self._another_store().add("failures", 1) == 1)
        except RuntimeError:
            return True

    def _another_store(self) -> dist.Store:
        connection: dist.Store = self._connection.clone()  # type: ignore[attr-defined]
        return dist.PrefixStore(self._attempt, connection)

    def _check_return(self) -> None:
        if self.comes_back and self.rank not in self.layout.client_ranks:
            raise UserError(
                f"{self.layout.name_of(self.rank)} was started again in a run that goes on: only client ranks can come "
                "back; start all ranks again, with resume=auto"
            )

    def disperse(self) -> None:
        """Part once every rank has come to its end: one may host the store, or still write for all."""
        self.sum_over_ranks("end", torch.zeros(1, dtype=torch.int64))
        if self._pulse is not None:
            self._pulse.rest()
        self.part(sum(not self.gone(rank) for rank in range(self.layout.world_size)))
