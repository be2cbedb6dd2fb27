"""One setting played over a logged run: gates pass its visits, a controller is asked whenever it would have been."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from splitcom_dist.config.schema import Config
from splitcom_dist.control.controller import Decision, Observation
from splitcom_dist.links import LINK_CODES
from splitcom_dist.replay.gate import GateReplay, LinkBytes, mean_squared_error
from splitcom_dist.replay.logs import RunLogs
from splitcom_dist.replay.nearness import judged_by
from splitcom_dist.replay.recording import Recording
from splitcom_dist.replay.scope import check_link, is_kept


class Decides(Protocol):
    """The part of a controller that a replay needs."""

    def decide(self, observation: Observation) -> list[Decision]: ...


@dataclass(frozen=True)
class Outcome:
    """What a run would have sent. `thetas` are a link's thresholds, one a decision."""

    links: Mapping[str, LinkBytes]
    thetas: Mapping[str, list[float]]
    other_bytes: int  # adapters, reports and verdicts, as they were

    @property
    def wire_bytes(self) -> int:
        return sum(link.wire_bytes for link in self.links.values()) + self.other_bytes


class AsLogged:
    """Decides what the run's own controller decided."""

    def __init__(self, logs: RunLogs) -> None:
        self._rows = {link: logs.threshold[logs.threshold["link"] == code] for link, code in LINK_CODES.items()}

    def decide(self, observation: Observation) -> list[Decision]:
        """The thresholds that held from then on."""
        places = {link: np.searchsorted(rows["step"], observation.step, "right") for link, rows in self._rows.items()}
        return [
            Decision(link, float(self._rows[link]["theta"][place - 1]), "as logged")
            for link, place in places.items()
            if place
        ]


class StalePrice:
    """What staleness is taken to cost: nats a unit of mean squared stale error beyond the run's own."""

    def __init__(self, recording: Recording, nats: float) -> None:
        self._nats = nats
        own = recording.logs.config
        self._own = _gates(recording, own, measured=True)
        _run(recording, own, AsLogged(recording.logs), self._own)

    def on(self, observation: Observation, links: Mapping[str, LinkBytes], start: int, stop: int) -> Observation:
        """What a controller is told of steps [start, stop) instead of the logged losses."""
        own = [gate.between(start, stop) for gate in self._own.values()]
        more = self._nats * (mean_squared_error(links.values()) - mean_squared_error(own))
        train, validation = (
            None if loss is None else loss + more for loss in (observation.train_loss, observation.validation_loss)
        )
        return replace(observation, train_loss=train, validation_loss=validation)


def play(
    recording: Recording,
    config: Config,
    controller: Decides,
    *,
    measured: bool = True,
    price: StalePrice | None = None,
    drift: float = 1.0,
) -> Outcome:
    """The whole run with the codec of `config`, thresholds by `controller`, which is asked at the times of `config`.

    Without `measured`, similarities that the run's own gate saw are estimated too; without a `price`, losses are those
    of the run. `drift` multiplies every 1 - cosine: as if values had moved so much further. Raises UserError for a
    codec that cannot be replayed.
    """
    gates = _gates(recording, config, measured, drift)
    thetas = _run(recording, config, controller, gates, price)
    whole = {link: gate.between(0, recording.course.steps) for link, gate in gates.items()}
    return Outcome(whole, thetas, recording.logs.other_bytes)


def _run(
    recording: Recording,
    config: Config,
    controller: Decides,
    gates: Mapping[str, GateReplay],
    price: StalePrice | None = None,
) -> dict[str, list[float]]:
    """Play all steps; returns every link's thresholds, those that have any."""
    course, told = recording.course, dict[str, list[float]]()
    decisions = course.decisions(config)
    for last, step in zip([-1, *decisions], decisions, strict=False):
        observation = course.observation(last, step, len(decisions) - 1)
        if step >= 0:
            for link, gate in gates.items():
                gate.play(last + 1, step + 1, told[link][-1] if link in told else getattr(config.codec, link).theta)
            links = {link: gate.between(last + 1, step + 1) for link, gate in gates.items()}
            if price is not None:
                observation = price.on(observation, links, last + 1, step + 1)
            observation = replace(observation, use={link: part.use for link, part in links.items() if part.raw_bytes})
        for decision in controller.decide(observation):
            told.setdefault(decision.link, []).append(decision.theta)
    return told


def _gates(recording: Recording, config: Config, measured: bool, drift: float = 1.0) -> dict[str, GateReplay]:
    gates = {}
    for link, (packets, nearness) in recording.links.items():
        logged, wanted = getattr(recording.logs.config.codec, link), getattr(config.codec, link)
        check_link(link, logged, wanted, recording.is_sketched)
        if is_kept(logged, wanted):
            packets = replace(packets, full=np.zeros(len(packets.step), bool))
        nearness = replace(judged_by(nearness, logged, wanted), drift=drift)
        gates[link] = GateReplay(packets, nearness if measured else replace(nearness, known={}), config)
    return gates
