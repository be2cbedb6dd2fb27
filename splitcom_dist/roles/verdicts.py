"""What ranks tell the aggregator at a decision, and the verdict it answers with: perplexity and thresholds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitcom_dist.attendance import Mode
from splitcom_dist.control.controller import Decision, LinkUse
from splitcom_dist.links import LINKS
from splitcom_dist.metrics.perplexity import Perplexity
from splitcom_dist.roles.context import Context
from splitcom_dist.roles.roster import Roster
from splitcom_dist.state import State, facts, read_facts
from splitcom_dist.telemetry.ledger import named_totals


def report(context: Context, step: int, lr: float, clients: Roster[Any]) -> None:
    """A client's or server's word at a decision: its books so far, and how fast its values drift."""
    ledger, world = context.ledger, context.world
    context.log.flush()  # what has been told must not be lost with this process
    text = json.dumps(
        {
            "incarnation": world.incarnation,
            "totals": ledger.totals().tolist(),
            "loss": ledger.loss,
            "targets": ledger.loss_targets,
            "lr": lr,
            "drift": clients.take_drift(),
        }
    )
    world.announce(f"report/{step}/{world.rank}", text)
    ledger.control(len(text))


def await_verdict(context: Context, step: int, clients: Roster[Any] | None) -> float | None:
    """Wait for the aggregator's verdict and take it; returns the perplexity, if it evaluated.

    It sets the thresholds of `clients`, where this rank has some, and what heads do from now on.

    While the aggregator makes progress this may take any time.
    """
    world = context.world
    verdict = json.loads(world.wait_for(f"verdict/{step}", [world.layout.aggregator_rank], "a verdict"))
    take(verdict, context, clients)
    ppl: float | None = verdict["ppl"]
    return ppl


def take(verdict: Mapping[str, Any], context: Context, clients: Roster[Any] | None) -> None:
    """Go by a verdict: thresholds, and what heads do."""
    if clients is not None:
        clients.hear(verdict["theta"])
    if "mode" in verdict:
        context.schedule.attendance.hear(Mode(verdict["mode"]))


def announce_verdict(
    context: Context, step: int, result: Perplexity | None, decisions: Sequence[Decision], mode: Mode | None
) -> str:
    """The aggregator's side of `await_verdict`; no mode where epochs alone decide it. Returns what is told."""
    theta = {decision.link: decision.theta for decision in decisions}
    verdict: dict[str, object] = {"ppl": result.ppl if result else None, "theta": theta}
    if mode is not None:
        context.schedule.attendance.hear(mode)
        verdict["mode"] = mode.value
    text = json.dumps(verdict)
    context.world.announce(f"verdict/{step}", text)
    context.ledger.control(len(text) * (context.world.layout.world_size - 1))
    return text


class Reports:
    """The aggregator's sum of all reports, as differences from one decision to the next."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._totals = torch.zeros_like(context.ledger.totals())
        self._last: dict[int, dict[str, Any]] = {}  # what each rank told last
        self.lr = 0.0
        self.train_loss: float | None = None
        self.use: dict[str, LinkUse] = {}
        self.other_bytes = 0

    def state(self) -> State:
        return {"totals": self._totals, "facts": facts({"last": self._last})}

    def load(self, state: State) -> None:
        self._totals = state["totals"].clone()
        self._last = {int(rank): told for rank, told in read_facts(state["facts"])["last"].items()}

    def collect(self, step: int) -> None:
        """Wait for the reports of all client ranks and servers on this step; of a lost one the last one stands."""
        world, loss, targets = self._context.world, 0.0, 0
        drift = dict.fromkeys(LINKS, (0.0, 0))
        reporting = (*world.layout.client_ranks, *world.layout.server_ranks)
        for rank, text in world.hear_all(f"report/{step}", reporting, f"the reports after step {step}").items():
            told = json.loads(text)
            before = self._last.get(rank, {})
            if before.get("incarnation") != told["incarnation"]:
                before = {}  # one that has come back sums its loss anew
            loss += told["loss"] - before.get("loss", 0.0)
            targets += told["targets"] - before.get("targets", 0)
            self._last[rank], self.lr = told, told["lr"]
            drift |= {
                link: (drift[link][0] + total, drift[link][1] + count) for link, (total, count) in told["drift"].items()
            }
        totals = self._context.ledger.totals()
        for told in self._last.values():
            totals += torch.tensor(told["totals"])
        links, others = named_totals(totals - self._totals)
        self.use = {
            link: LinkUse(
                counts["raw_real_bytes"],
                counts["wire_bytes"],
                counts["I"] + counts["P"],
                counts["S"],
                drift[link][0] / max(1, drift[link][1]),
            )
            for link, counts in links.items()
            if counts["raw_padded_bytes"]
        }
        self.other_bytes = others["adapter_bytes"] + others["control_bytes"]
        self.train_loss = loss / max(1, targets)
        self._totals = totals
