"""The course of a run: evaluations, what the controller did, where clients were cut, and every other event."""

import re
from dataclasses import dataclass

import numpy as np

from splitcom_dist.analysis.logs import Rows, Run, text_of, whole
from splitcom_dist.links import LINKS

DECISION = ("step", "epoch", "link", "theta", "controller", "reason", "state")
EVENT = ("time", "step", "kind", "text")
FIRST_CUT = re.compile(r"client (\d+) is cut after (\d+) blocks")
MOVED_CUT = re.compile(r"client (\d+): cut (\d+) -> (\d+)(?: \((.*)\))?")


@dataclass(frozen=True)
class Cut:
    """Where a client is cut from after a step on; `step` -1 is before training."""

    step: int
    client: int
    blocks: int
    reason: str


@dataclass(frozen=True)
class Course:
    decisions: Rows  # DECISION, in the order of steps
    events: Rows  # EVENT, in the order of time
    cuts: list[Cut]

    def thresholds(self, link: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n,) after which a link's threshold was decided, and the thresholds."""
        of = self.decisions["link"] == link
        return self.decisions["step"][of], self.decisions["theta"][of]

    @property
    def gated(self) -> list[int]:
        """Links that have a threshold."""
        return sorted(set(self.decisions["link"].tolist()))


def course_of(run: Run) -> Course:
    decisions = _sorted(whole(run, "threshold", DECISION), "step")
    events = _sorted(whole(run, "events", EVENT), "time")
    cuts = []
    for step, kind, text in zip(events["step"].tolist(), events["kind"], events["text"], strict=True):
        if kind == b"cut" and (cut := _cut(step, text_of(text))):
            cuts.append(cut)
    return Course(decisions, events, sorted(cuts, key=lambda cut: (cut.client, cut.step)))


def link_name(code: int) -> str:
    return LINKS[code].replace("_", " ")


def _cut(step: int, text: str) -> Cut | None:
    if found := FIRST_CUT.fullmatch(text):
        return Cut(step, int(found[1]), int(found[2]), "as configured")
    if found := MOVED_CUT.fullmatch(text):
        return Cut(step, int(found[1]), int(found[3]), found[4] or "")
    return None


def _sorted(rows: Rows, by: str) -> Rows:
    order = np.argsort(rows[by], kind="stable")
    return {name: values[order] for name, values in rows.items()}
