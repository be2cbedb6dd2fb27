"""Which client owns which sample."""

import numpy as np

from splitcom_dist.errors import UserError


def iid(count: int, clients: int, seed: int) -> list[np.ndarray]:
    """`clients` shards of sample indices, int64 and ascending, whose sizes differ by at most one.

    Every index below `count` is in exactly one shard. Raises UserError when a client would have no sample.
    """
    if count < clients:
        raise UserError(
            f"fed.clients={clients} but data has {count} training samples: every client needs one; "
            "lower fed.clients or raise data.train_samples"
        )
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(shard) for shard in np.array_split(order, clients)]
