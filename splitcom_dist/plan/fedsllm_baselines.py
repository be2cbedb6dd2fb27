"""What FedsLLM's plan is compared with: equal or random shares of the bands, and an accuracy that nobody has chosen."""

import numpy as np

from splitcom_dist.plan.channel import Array
from splitcom_dist.plan.fedsllm import Instance, Plan, at_accuracy, best_accuracy, delay


def equal_shares(instance: Instance) -> Array:
    servers, users = instance.bits.shape
    return np.repeat(instance.bandwidth_hz[:, None] / users, users, axis=1).reshape(servers, users)


def random_shares(instance: Instance, seed: int) -> Array:
    """Uniform over all ways to divide each band."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 3)))
    return np.asarray(
        rng.dirichlet(np.ones(instance.bits.shape[1]), len(instance.bits)) * instance.bandwidth_hz[:, None]
    )


def unoptimised(instance: Instance, eta: float) -> float:
    """T in seconds for equal shares and a fixed eta: what the paper's 47.63 % are below; its eta is not known."""
    return delay(instance, eta, equal_shares(instance))


def equal_bandwidth(instance: Instance) -> float:
    """T in seconds for equal shares and the eta that suits them."""
    shares = equal_shares(instance)
    return delay(instance, best_accuracy(instance, shares), shares)


def fixed_accuracy(instance: Instance, eta: float) -> Plan:
    """The best shares at a fixed eta."""
    return at_accuracy(instance, eta)


def random_bandwidth(instance: Instance, eta: float, seed: int) -> float:
    """T in seconds for random shares and a fixed eta."""
    return delay(instance, eta, random_shares(instance, seed))
