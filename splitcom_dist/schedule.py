"""What happens when: a pure function of the configuration and the shard sizes, equal on every rank.

Both ends of every edge walk the same turns in the same order, so no transfer can wait for one behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from splitcom_dist.attendance import Attendance, Mode
from splitcom_dist.config.implied import cuts_move, head_trains
from splitcom_dist.config.schema import Config, RestConfig
from splitcom_dist.control.choice import decides_by_rounds
from splitcom_dist.data.batching import epoch_batch
from splitcom_dist.layout import Layout

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Steps are counted over the whole run from 0, epochs from 0."""

    layout: Layout
    shard_sizes: tuple[int, ...]  # samples of each logical client
    batch_size: int
    epochs: int
    round_steps: int  # fed.every: steps between two averagings
    eval_epochs: int  # eval.every: epochs between two evaluations
    clients_train: bool = True  # some of their adapters, so that these are averaged
    tails_train: bool = False  # the clients' tails, in epochs in which their heads do not
    decides_by_rounds: bool = False  # thresholds move after every round, not only after evaluations
    cuts_move: bool = False  # between rounds
    attendance: Attendance = field(default_factory=lambda: Attendance(RestConfig()))
    participation: float = 1.0  # share of the logical clients that is drawn for each round
    seed: int = 0  # of the draws
    micro_batches: int = 1  # of a batch that has as many samples

    @cached_property
    def steps_per_epoch(self) -> int:
        """Until the largest shard is through; smaller ones have finished their epoch before."""
        return max(self._batches(client) for client in range(self.layout.clients))

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def epoch_of(self, step: int) -> int:
        """The epoch of a step; -1 for step -1, the model before training."""
        return step // self.steps_per_epoch

    def mode(self, step: int) -> Mode:
        """What the clients' heads do in this step."""
        return self.attendance.mode(self.epoch_of(step))

    def active_clients(self, step: int) -> list[int]:
        """Logical clients that give a batch to this step, in the order of their turns."""
        batch = step % self.steps_per_epoch
        return [client for client in self.drawn(step) if batch < self._batches(client)]

    def drawn(self, step: int) -> Sequence[int]:
        """Logical clients that take part in the round of this step, ascending: all, or as many as the share says of
        those that have a batch in its first step. What the others would have given to it is left out of the epoch."""
        clients = range(self.layout.clients)
        if self.participation == 1:
            return clients
        number, epoch = step // self.round_steps, self.epoch_of(step)  # an epoch may end in the middle of a number
        first = max(number * self.round_steps, epoch * self.steps_per_epoch) % self.steps_per_epoch
        waiting = [client for client in clients if first < self._batches(client)]
        count = max(1, round(self.participation * len(clients)))
        order = np.random.default_rng(np.random.SeedSequence((self.seed, epoch, number, 1))).permutation(len(waiting))
        return sorted(waiting[place] for place in order[:count])

    def turns(self, step: int, rank: int) -> list[int]:
        """The logical clients of a client rank in the order in which it runs them through one step."""
        return [client for client in self.active_clients(step) if self.layout.rank_of(client) == rank]

    def waves(self, step: int, server: int) -> list[list[int]]:
        """The clients that a server serves in one step, at most one of each client rank in a wave.

        Those of a wave run on different ranks: while one computes, the server serves the others. In the U-shape it
        has two transfers from each, and takes the first of every client in the wave before the second of any.
        """
        ranks = [rank for rank in self.layout.client_ranks if self.layout.server_of(rank) == server]
        turns = [self.turns(step, rank) for rank in ranks]
        return [[client for client in wave if client is not None] for wave in zip_longest(*turns)]

    def batch(self, samples: Sequence[T], client: int, step: int, seed: int) -> list[T]:
        """A client's samples of one step; the order of an epoch is drawn from (seed, client, epoch)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return [samples[place] for place in epoch_batch(len(samples), self.batch_size, seed, client, epoch, index)]

    def micro_batches_of(self, client: int, step: int) -> int:
        """Into how many parts an active client's batch is cut: one a sample where there are fewer than configured."""
        left = self.shard_sizes[client] - step % self.steps_per_epoch * self.batch_size
        return min(self.micro_batches, self.batch_size, left)

    def averages_after(self, step: int) -> bool:
        """Whether client adapters are averaged after this step; always at the end of an epoch, if they train."""
        trains = self.tails_train or (self.clients_train and self.mode(step) is Mode.TRAIN)
        return trains and self.ends_round(step)

    def moves_cuts_after(self, step: int) -> bool:
        """Whether clients may be cut elsewhere from the next step on: all ranks have just averaged."""
        return self.cuts_move and self.averages_after(step) and step + 1 < self.total_steps

    def evaluates_after(self, step: int) -> bool:
        """Whether the aggregator evaluates after this step; always after the last one."""
        due = (self.epoch_of(step) + 1) % self.eval_epochs == 0
        return self._ends_epoch(step) and (due or step == self.total_steps - 1)

    def decides_after(self, step: int) -> bool:
        """Whether all ranks report after this step and wait for a verdict."""
        return self.evaluates_after(step) or (self.decides_by_rounds and self.ends_round(step))

    def ends_round(self, step: int) -> bool:
        """Whether this is the last step of a round; an epoch's last one always is."""
        return (step + 1) % self.round_steps == 0 or self._ends_epoch(step)

    def _ends_epoch(self, step: int) -> bool:
        return (step + 1) % self.steps_per_epoch == 0

    def _batches(self, client: int) -> int:
        return -(-self.shard_sizes[client] // self.batch_size)


def schedule_for(config: Config, layout: Layout, shard_sizes: tuple[int, ...]) -> Schedule:
    """The configured schedule over shards of these sizes."""
    return Schedule(
        layout,
        shard_sizes,
        config.train.batch_size,
        config.train.epochs,
        config.fed.every,
        config.eval.every,
        clients_train=head_trains(config) or config.model.tail_layers > 0,
        tails_train=config.model.tail_layers > 0,
        cuts_move=cuts_move(config),
        attendance=Attendance(config.rest),
        decides_by_rounds=decides_by_rounds(config),
        participation=config.fed.participation,
        seed=config.train.seed,
        micro_batches=config.train.micro_batches,
    )
