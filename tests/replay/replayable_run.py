"""Logs of a run that never trained: the real codec, books and controllers over values that drift as they are told."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.ends import make_encoder
from splitcom_dist.codec.frames import Encoder
from splitcom_dist.codec.header import Header
from splitcom_dist.codec.manifest import pack_manifest
from splitcom_dist.codec.visit import Visit
from splitcom_dist.codec.wire import pack
from splitcom_dist.config.files import load_config, to_yaml
from splitcom_dist.config.schema import Config
from splitcom_dist.control.choice import make_controller
from splitcom_dist.control.controller import Observation
from splitcom_dist.layout import layout_for
from splitcom_dist.links import LINK_CODES, LINKS, links_of
from splitcom_dist.schedule import schedule_for
from splitcom_dist.telemetry.count_sketch import CountSketch
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.join import join
from splitcom_dist.telemetry.ledger import Ledger
from splitcom_dist.telemetry.records import record_round, record_similarity, record_threshold, record_training
from splitcom_dist.telemetry.sketches import SketchLog

WIDTH, MAX_LENGTH, SHARDS, EPOCHS = 24, 32, (13, 10), 6
LOSSES = (3.0, 2.5, 2.52, 2.6, 2.4, 2.39, 2.38)  # before training, and after every epoch
SPEED = {"up_activation": 0.12, "down_activation": 0.1, "up_gradient": 0.3, "down_gradient": 0.4}
ROUND = 2


def replayable_run(folder: Path, *settings: str) -> Path:
    """A run directory; what crosses depends on the codec and control of `settings`, what there is to cross does not."""
    common = ["roles.client_ranks=1", f"fed.clients={len(SHARDS)}", f"fed.every={ROUND}", f"train.epochs={EPOCHS}"]
    common += ["train.batch_size=4", f"data.max_length={MAX_LENGTH}"]
    config = load_config([], [*common, *settings])
    (folder / "telemetry").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    file, k = folder / "telemetry" / "rank_00000.h5", config.telemetry.sketch
    with RankLog(file, rank=0, role="all", config=to_yaml(config), sketch=k) as log:
        _Run(config, log).go()
    assert not join(folder / "telemetry", folder / "run.h5", 1)
    return folder


class _Run:
    def __init__(self, config: Config, log: RankLog) -> None:
        self.config, self.log = config, log
        self.schedule = schedule_for(config, layout_for(config), SHARDS)
        self.ledger = Ledger(log, self.schedule, MAX_LENGTH, 2 * WIDTH)
        self.controller = make_controller(config)
        self.lengths = {
            sample: int(length) for sample, length in enumerate(np.random.default_rng(1).integers(5, 30, sum(SHARDS)))
        }
        self.shards = [range(SHARDS[0]), range(SHARDS[0], sum(SHARDS))]
        self.ends: dict[tuple[int, str], tuple[Encoder, SketchLog | None]] = {}
        self.named = set[int]()

    def go(self) -> None:
        self.decide(-1)
        for step in range(self.schedule.total_steps):
            for client in self.schedule.active_clients(step):
                self.turn(client, step)
            if self.schedule.averages_after(step):
                epoch = self.schedule.epoch_of(step)
                self.ledger.adapters(1000)
                record_round(self.log, step, epoch, len(SHARDS), 1.0, 1000, 0.0, movement=0.1)
            if self.schedule.decides_after(step):
                self.decide(step)

    def turn(self, client: int, step: int) -> None:
        samples = self.schedule.batch(list(self.shards[client]), client, step, self.config.train.seed)
        visit = Visit(samples, torch.tensor([self.lengths[sample] for sample in samples]))
        for link in links_of(self.config.model.tail_layers):
            self.send(client, link, step, visit)
        told = {"tokens": visit.tokens, "targets": 10, "lr": 0.1, "seconds": 0.0, "wait": 0.0}
        epoch = self.schedule.epoch_of(step)
        record_training(self.log, step, epoch, client, loss=LOSSES[epoch + 1], **told)  # type: ignore[arg-type]

    def send(self, client: int, link: str, step: int, visit: Visit) -> None:
        if (client, link) not in self.ends:
            self.ends[client, link] = self.make_end(link)
        encoder, sketches = self.ends[client, link]
        epoch = self.schedule.epoch_of(step)
        values = torch.cat([self.values(link, sample, epoch) for sample in visit.samples])
        frames = encoder.encode(values, visit)
        header = Header(LINK_CODES[link], step, client, len(visit.samples), visit.tokens)
        header = replace(header, n_i=frames.intra, n_p=frames.predicted, n_s=frames.skipped)
        sections, labels = dict(frames.sections), 0
        if link == LINKS[0]:
            sections["manifest"] = torch.from_numpy(pack_manifest(visit.samples, visit.lengths.tolist(), {}))
            news = set(visit.samples) - self.named
            self.named |= news
            labels = 6 * len(news)
            sections["labels"] = torch.zeros(labels, dtype=torch.uint8)
        self.ledger.sent(header, len(pack(header, sections)), labels, 0.0, 0.0)
        record_similarity(self.log, epoch, header, visit, frames)
        if sketches is not None:
            sketches.record(step, epoch, client, header.link, visit, values)

    def make_end(self, link: str) -> tuple[Encoder, SketchLog | None]:
        codec, k = getattr(self.config.codec, link), self.config.telemetry.sketch
        sketches = SketchLog(self.log, CountSketch(k, WIDTH, MAX_LENGTH), WIDTH) if k else None
        return make_encoder(codec, WIDTH, torch.float32, seed=5), sketches

    def values(self, link: str, sample: int, epoch: int) -> Tensor:
        """Rows (t, d): a random walk that slows down, every sample's at a pace of its own."""
        generator = torch.Generator().manual_seed(1000 * LINK_CODES[link] + sample)
        shape = (self.lengths[sample], WIDTH)
        rows = torch.randn(shape, generator=generator)
        for turn in range(epoch):
            pace = SPEED[link] * (0.5 + sample / sum(SHARDS)) / (1 + 0.3 * turn)
            rows = rows + pace * torch.randn(shape, generator=generator)
        return rows

    def decide(self, step: int) -> None:
        """Only controllers that need no more than perplexity can be told here."""
        epoch, log = self.schedule.epoch_of(step), self.log
        loss = LOSSES[epoch + 1] if step < 0 or self.schedule.evaluates_after(step) else None
        if loss is not None:
            named = {"step": step, "epoch": epoch, "split": "validation", "samples": 1, "tokens": 10}
            log.append("eval", **named, loss=loss, ppl=math.exp(loss), seconds=0.0)
        progress = (step + 1) / self.schedule.total_steps
        for decision in self.controller.decide(Observation(step, epoch, progress, loss)):
            record_threshold(log, step, epoch, self.controller.name, decision)
            for (_, link), (encoder, _) in self.ends.items():
                encoder.theta = decision.theta if link == decision.link else encoder.theta
        self.ledger.control(20)
