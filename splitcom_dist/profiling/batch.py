"""The batch that stands for a run: its mean size over an epoch."""

from statistics import mean

from splitcom_dist.config.schema import Config
from splitcom_dist.layout import layout_for
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.plan.workload import Batch
from splitcom_dist.schedule import schedule_for
from splitcom_dist.shards import training_shards


def typical_batch(config: Config, source: ModelSource) -> tuple[Batch, int]:
    """Its samples, padded length and targets, and its real positions."""
    layout = layout_for(config)
    shards = training_shards(config, source.tokenizer(), range(layout.clients))
    schedule = schedule_for(config, layout, tuple(len(shards[client]) for client in range(layout.clients)))
    batches = [
        schedule.batch(shards[client], client, step, config.train.seed)
        for step in range(schedule.steps_per_epoch)
        for client in schedule.active_clients(step)
    ]
    samples = round(mean(len(batch) for batch in batches))
    padded = mean(len(batch) * max(len(sample.tokens) - 1 for sample in batch) for batch in batches)
    tokens = mean(sum(len(sample.tokens) - 1 for sample in batch) for batch in batches)
    targets = mean(sum(len(sample.tokens) - sample.target_start for sample in batch) for batch in batches)
    return Batch(samples, round(padded / samples), round(targets)), round(tokens)
