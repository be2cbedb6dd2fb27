"""What a replay found, beside the run itself, and the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitcom_dist.control.choice import make_controller
from splitcom_dist.replay.play import AsLogged, Outcome, StalePrice, play
from splitcom_dist.replay.recording import Recording
from splitcom_dist.replay.settings import Setting

DRIFTS = 0.5, 2.0  # of 1 - cosine: about what other thresholds did to it in benchmarks/results/replay.md


@dataclass(frozen=True)
class Report:
    """`own` is the run played with its own thresholds, `estimated` the same by estimated similarities alone."""

    recording: Recording
    own: Outcome
    estimated: Outcome
    outcomes: Mapping[str, Outcome]
    ranges: Mapping[str, tuple[Outcome, Outcome]]  # the same, had values drifted half and twice as far
    nats: float = 0.0  # of a StalePrice

    @property
    def wire_bytes(self) -> int:
        """Of the run as it was logged."""
        return sum(self.recording.link_bytes.values()) + self.own.other_bytes


def compare(recording: Recording, settings: Sequence[Setting], nats: float = 0.0) -> Report:
    """Play every setting; `nats` is a StalePrice. Raises UserError for one that cannot be played."""
    own, price = recording.logs.config, StalePrice(recording, nats) if nats else None

    def played(setting: Setting, drift: float) -> Outcome:
        return play(recording, setting.config, make_controller(setting.config), price=price, drift=drift)

    return Report(
        recording,
        own=play(recording, own, AsLogged(recording.logs)),
        estimated=play(recording, own, AsLogged(recording.logs), measured=False),
        outcomes={setting.name: played(setting, 1.0) for setting in settings},
        ranges={setting.name: (played(setting, DRIFTS[0]), played(setting, DRIFTS[1])) for setting in settings},
        nats=nats,
    )


def as_json(report: Report) -> dict[str, Any]:
    """Bytes, positions and errors of the run and of every setting, by link."""
    return {
        "run": str(report.recording.logs.path),
        "source": source_of(report.recording),
        "logged": {"wire_bytes": report.wire_bytes, "links": report.recording.link_bytes},
        "own_thresholds": _outcome(report.own),
        "own_thresholds_estimated": _outcome(report.estimated),
        "settings": {name: _outcome(outcome) for name, outcome in report.outcomes.items()},
        "half_and_double_drift": {name: [_outcome(each) for each in ends] for name, ends in report.ranges.items()},
    }


def source_of(recording: Recording) -> str:
    """What similarities are estimated from where the run did not measure them."""
    return f"sketches of {recording.logs.sketch['values'].shape[1]}" if recording.is_sketched else "logged similarities"


def _outcome(outcome: Outcome) -> dict[str, Any]:
    links = {
        link: {
            "wire_bytes": part.wire_bytes,
            "raw_real_bytes": part.raw_bytes,
            "sent": part.sent,
            "skipped": part.skipped,
            "stale_error": part.stale_error,
            "theta": outcome.thetas.get(link, []),
        }
        for link, part in outcome.links.items()
    }
    return {"wire_bytes": outcome.wire_bytes, "links": links}
