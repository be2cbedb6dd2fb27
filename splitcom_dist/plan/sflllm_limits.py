"""SflLLM's plan within a limit of time; where none is, how far each limit alone would have to be relaxed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.plan.relax import least_factor
from splitcom_dist.plan.sflllm import Instance, delay, forward_seconds
from splitcom_dist.plan.sflllm_descent import Plan, feasible, solve
from splitcom_dist.plan.subchannels import Band, best_power


def _wider(band: Band, by: float) -> Band:
    return replace(band, width_hz=by * band.width_hz, snr_per_w=band.snr_per_w / by)  # noise grows with the width


def _louder(band: Band, by: float) -> Band:
    return replace(band, client_power_w=by * band.client_power_w, total_power_w=by * band.total_power_w)


RELAXED: dict[str, Callable[[Instance, float], Instance]] = {
    "client speed": lambda instance, by: replace(instance, client_flops=by * instance.client_flops),
    "server speed": lambda instance, by: replace(instance, server_flops=by * instance.server_flops),
    "width of the subchannels": lambda instance, by: replace(
        instance, main=_wider(instance.main, by), federated=_wider(instance.federated, by)
    ),
    "power": lambda instance, by: replace(
        instance, main=_louder(instance.main, by), federated=_louder(instance.federated, by)
    ),
    "client memory": lambda instance, by: replace(instance, most_memory=by * instance.most_memory),
}


def within(instance: Instance, most_seconds: float) -> Plan:
    """The plan, if it ends in time; else UserError with factors that suffice (owners of subchannels as they are)."""
    plan = solve(instance)
    if plan.delay_seconds <= most_seconds:
        return plan
    mends = [f"allow {plan.delay_seconds:.4g} s ({plan.delay_seconds / most_seconds:.2f} times the limit)"]
    for name, relaxed in RELAXED.items():
        if name == "client memory" and not np.isfinite(instance.most_memory):
            continue

        def late(by: float, relaxed: Callable[[Instance, float], Instance] = relaxed) -> float:
            return _with_same_owners(relaxed(instance, by), plan) / most_seconds - 1

        factor = least_factor(late)
        mends.append(f"{name} x {factor:.2f}" if factor else f"no {name} suffices alone")
    raise UserError(
        f"no plan ends within {most_seconds:g} s, the best takes {plan.delay_seconds:.4g} s: {'; or '.join(mends)}"
    )


def _with_same_owners(instance: Instance, plan: Plan) -> float:
    """The least delay over power, split and rank."""
    at_once = np.zeros(len(instance.client_flops))
    federated = best_power(instance.federated, plan.federated.owners, at_once, 1e6)
    found = []
    for choice in feasible(instance):
        offsets, bits = forward_seconds(instance, choice), choice.of(instance.costs.activation_bits)
        main = best_power(instance.main, plan.main.owners, offsets, bits)
        found.append(delay(instance, choice, main, federated))
    return min(found)
