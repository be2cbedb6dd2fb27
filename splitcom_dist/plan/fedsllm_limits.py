"""FedsLLM's plan within a limit of time; where none is, how far each limit alone would have to be relaxed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.plan.fedsllm import FedsllmConfig, Plan, draw, solve
from splitcom_dist.plan.relax import least_factor

RELAXED: dict[str, Callable[[FedsllmConfig, float], FedsllmConfig]] = {
    "bandwidth": lambda config, by: replace(
        config, bandwidth_hz=by * config.bandwidth_hz, federated_bandwidth_hz=by * config.federated_bandwidth_hz
    ),
    "frequency": lambda config, by: replace(
        config, frequency_hz=by * config.frequency_hz, server_frequency_hz=by * config.server_frequency_hz
    ),
    "power": lambda config, by: replace(config, power_dbm=config.power_dbm + 10 * np.log10(by)),
}


def within(config: FedsllmConfig, seed: int, most_seconds: float) -> Plan:
    """The optimum, if it ends in time; else UserError with the mends."""
    plan = solve(draw(config, seed))
    if plan.delay_seconds <= most_seconds:
        return plan
    mends = [f"allow {plan.delay_seconds:.4g} s ({plan.delay_seconds / most_seconds:.2f} times the limit)"]
    for name, relaxed in RELAXED.items():

        def late(by: float, relaxed: Callable[[FedsllmConfig, float], FedsllmConfig] = relaxed) -> float:
            return solve(draw(relaxed(config, by), seed)).delay_seconds / most_seconds - 1

        factor = least_factor(late)
        if factor is None:
            mends.append(f"no {name} suffices alone")
        else:
            mends.append(f"power +{10 * np.log10(factor):.1f} dB" if name == "power" else f"{name} x {factor:.2f}")
    raise UserError(
        f"no plan ends within {most_seconds:g} s, the best takes {plan.delay_seconds:.4g} s: {'; or '.join(mends)}"
    )
