"""The bytes of a run in which rounds draw clients: by walking the schedule, since samples are visited unevenly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from splitcom_dist.data.batching import in_micro_batches
from splitcom_dist.data.tokens import Sample
from splitcom_dist.schedule import Schedule


@dataclass
class Visits:
    """Everything that a run's clients give to its steps."""

    batches: list[int] = field(default_factory=list)  # samples of each that crosses by itself
    first: list[Sample] = field(default_factory=list)  # first visits
    later: list[Sample] = field(default_factory=list)
    counted: int = 0  # samples in batches with a first visit, where labels are counted

    @property
    def positions(self) -> int:
        return sum(len(sample.tokens) - 1 for sample in (*self.first, *self.later))


def walk(schedule: Schedule, shards: Mapping[int, Sequence[Sample]]) -> Visits:
    """All steps of a run."""
    visits, known = Visits(), {client: set[int]() for client in shards}
    for step in range(schedule.total_steps):
        for client in schedule.active_clients(step):
            batch = schedule.batch(shards[client], client, step, schedule.seed)
            for part in in_micro_batches(batch, schedule.micro_batches):
                news = [sample for sample in part if sample.id not in known[client]]
                visits.batches.append(len(part))
                visits.first += news
                visits.later += [sample for sample in part if sample.id in known[client]]
                visits.counted += len(part) if news else 0
                known[client] |= {sample.id for sample in news}
    return visits
