"""How much of what could have crossed a run has sent, where gates and entropy coders decide."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from splitcom_dist.analysis.logs import Run, chunks
from splitcom_dist.config.schema import Config
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import UserError
from splitcom_dist.links import LINK_CODES
from splitcom_dist.models.sources import ModelSource
from splitcom_dist.plan.cluster import CodecRun
from splitcom_dist.predict import predict_links
from splitcom_dist.schedule import Schedule
from splitcom_dist.telemetry.ledger import SENT


def codec_run(
    run: Run, config: Config, source: ModelSource, schedule: Schedule, shards: Mapping[int, Sequence[Sample]]
) -> CodecRun:
    """The codec of a run, with its shares over the epochs that are through; UserError where none is."""
    once, twice = (predict_links(config, source, replace(schedule, epochs=epochs), shards) for epochs in (1, 2))
    first: dict[str, float] = dict.fromkeys(once, 1.0)
    later: dict[str, float] | None = dict.fromkeys(once, 1.0)
    open_links = [name for name, link in twice.items() if link.least < link.most]
    if open_links:
        crossed = _epoch_bytes(run, schedule)
        if not len(crossed):
            raise UserError(f"--from {run.root}: it has not finished an epoch, so what its codec sends is not known")
        for name in open_links:
            first[name] = float(crossed[0][LINK_CODES[name]] / once[name].most)
        later = None
        if len(crossed) > 1:
            repeats = {name: twice[name].most - once[name].most for name in twice}
            means = crossed[1:].mean(0)
            later = {
                name: float(means[LINK_CODES[name]] / most) if name in open_links else 1.0
                for name, most in repeats.items()
            }
    return CodecRun(asdict(config.codec), asdict(config.control), first, later)


def _epoch_bytes(run: Run, schedule: Schedule) -> np.ndarray:
    """Bytes (epochs, links) that crossed in every epoch whose last step all ranks have logged."""
    sums = np.zeros((schedule.epochs, len(LINK_CODES)))
    last: dict[int, int] = {}
    for rank, rows in chunks(run, "traffic", ("step", "epoch", "link", "side", "wire")):
        sent = rows["side"] == SENT
        np.add.at(sums, (rows["epoch"][sent], rows["link"][sent]), rows["wire"][sent])
        last[rank.rank] = max(last.get(rank.rank, 0), int(rows["step"].max()))
    # A rank whose clients have small shards has its last packet before the end of an epoch; the slowest rank of all
    # says least, so at worst an epoch that is complete is left out.
    complete = 0 if not last else (min(last.values()) + 1) // schedule.steps_per_epoch
    return sums[: schedule.epochs if run.finished else complete]
