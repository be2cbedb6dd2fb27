"""SflLLM's block coordinate descent, and its baselines a-d: each leaves one block to chance.

Subchannels with their power, split and rank take turns, each at its best while the others stay; no turn may make the
delay longer. Owners are found anew in each turn and kept where they help.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.plan.channel import Array
from splitcom_dist.plan.owners import allocate, greedy
from splitcom_dist.plan.sflllm import Choice, Instance, delay, forward_seconds
from splitcom_dist.plan.subchannels import Allocation, Band, Owners, best_power

BASELINES = {"a": "subchannels", "b": "power", "c": "split", "d": "rank"}
TOLERANCE = 1e-6  # relative gain of a whole turn below which the descent ends
SLACK = 1e-9  # of rounding, in the check that no block makes the delay longer


@dataclass(frozen=True)
class Plan:
    choice: Choice
    rank: int
    main: Allocation
    federated: Allocation
    delay_seconds: float
    course: Sequence[float]  # the delay after the start and after every block


def solve(instance: Instance, chance: str = "", seed: int = 0) -> Plan:
    """The plan; `chance` names what is drawn instead of chosen: subchannels, power, split or rank. UserError if no
    split fits the clients' memory."""
    fitting = feasible(instance)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 4)))
    if chance in ("split", "rank"):
        drawn = fitting[rng.integers(len(fitting))]
        fitting = [each for each in fitting if getattr(each, chance) == getattr(drawn, chance)]
    descent, plans = _Descent(instance, fitting, chance, rng), []
    for split in {fitting[0].split, fitting[len(fitting) // 2].split, fitting[-1].split}:
        own = [each for each in fitting if each.split == split]
        plans.append(descent.run(own[len(own) // 2]))
    return min(plans, key=lambda plan: plan.delay_seconds)


def feasible(instance: Instance) -> list[Choice]:
    """Choices within the clients' memory; UserError says how much the smallest needs."""
    table = instance.costs.client_memory
    found = [Choice(int(split) + 1, int(rank)) for split, rank in np.argwhere(table <= instance.most_memory)]
    if not found:
        least = float(table.min())
        raise UserError(
            f"client memory of {instance.most_memory / 1e6:,.1f} MB: the smallest head (1 block, LoRA rank "
            f"{min(instance.costs.ranks)}) needs {least / 1e6:,.1f} MB: allow "
            f"{(least - instance.most_memory) / 1e6:,.1f} MB more, or a smaller batch"
        )
    return found


class _Descent:
    def __init__(self, instance: Instance, choices: Sequence[Choice], chance: str, rng: np.random.Generator) -> None:
        self.instance, self.choices, self.chance = instance, choices, chance
        bands = (instance.main, instance.federated)
        self.owners = [_random_owners(band, rng) if chance == "subchannels" else None for band in bands]
        self.draws = [rng.random(band.subchannels) if chance == "power" else None for band in bands]
        self.found: dict[Choice | None, Allocation] = {}

    def run(self, start: Choice) -> Plan:
        instance = self.instance
        plan = Plan(start, instance.costs.ranks[start.rank], self.to_main(start), self.to_federated(), np.inf, ())
        plan = self._after(plan, plan)
        while True:
            before = plan.delay_seconds
            plan = self._after(plan, replace(plan, main=self.to_main(plan.choice)))
            plan = self._after(plan, replace(plan, federated=self.to_federated()))
            plan = self._after(plan, replace(plan, choice=self._best(plan, rank=plan.choice.rank)))
            plan = self._after(plan, replace(plan, choice=self._best(plan, split=plan.choice.split)))
            if plan.delay_seconds > before * (1 - TOLERANCE):
                return plan

    def to_main(self, choice: Choice) -> Allocation:
        if choice not in self.found:
            bits = choice.of(self.instance.costs.activation_bits)
            offsets = forward_seconds(self.instance, choice)
            self.found[choice] = self._allocation(0, self.instance.main, offsets, bits)
        return self.found[choice]

    def to_federated(self) -> Allocation:
        """All begin at once with equally many bits: whatever these are, the best is the same."""
        if None not in self.found:
            at_once = np.zeros(len(self.instance.client_flops))
            self.found[None] = self._allocation(1, self.instance.federated, at_once, 1e6)
        return self.found[None]

    def _allocation(self, place: int, band: Band, offsets: Array, bits: float) -> Allocation:
        owners, draws = self.owners[place], self.draws[place]
        if owners is not None:
            return best_power(band, owners, offsets, bits)
        if draws is not None:
            owners = greedy(band, offsets, bits)
            power = _random_power(band, owners, draws)
            return Allocation(owners, power, band.rates(owners, power))
        return allocate(band, offsets, bits)

    def _best(self, plan: Plan, split: int | None = None, rank: int | None = None) -> Choice:
        open_ = [each for each in self.choices if each.split == split or each.rank == rank]
        return min(open_, key=lambda choice: delay(self.instance, choice, plan.main, plan.federated))

    def _after(self, plan: Plan, changed: Plan) -> Plan:
        """`changed` with its delay, or `plan` where it is longer: owners that are found anew need not be better."""
        found = delay(self.instance, changed.choice, changed.main, changed.federated)
        kept = plan if found > plan.delay_seconds else replace(changed, delay_seconds=found)
        assert not plan.course or kept.delay_seconds <= plan.course[-1] * (1 + SLACK), "a block made the delay longer"
        rank = self.instance.costs.ranks[kept.choice.rank]
        return replace(kept, rank=rank, course=(*plan.course, kept.delay_seconds))


def _random_owners(band: Band, rng: np.random.Generator) -> Owners:
    """One subchannel to every client at least, the others to anybody."""
    owners = np.concatenate([np.arange(band.clients), rng.integers(band.clients, size=band.subchannels - band.clients)])
    return np.asarray(rng.permutation(owners))


def _random_power(band: Band, owners: Owners, draws: Array) -> Array:
    """In proportion to `draws` (subchannels,), as much as both caps allow."""
    of_clients = np.bincount(owners, weights=draws, minlength=band.clients)
    return np.asarray(draws * min(band.client_power_w / of_clients.max(), band.total_power_w / draws.sum()))
