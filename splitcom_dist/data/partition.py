"""Which client owns which sample of a common pool: every index below the count in exactly one shard.

A shard is an ascending int64 vector of indices. All raise UserError where a client would have fewer than `min_shard`.
"""

import numpy as np

from splitcom_dist.errors import UserError

DRAWS = 1000  # of shares, before a partition with data.min_shard counts as out of reach


def iid(count: int, clients: int, seed: int, min_shard: int = 1) -> list[np.ndarray]:
    """`clients` shards whose sizes differ by at most one."""
    _check_count(count, clients, min_shard)
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(shard) for shard in np.array_split(order, clients)]


def dirichlet(classes: np.ndarray, clients: int, alpha: float, seed: int, min_shard: int = 1) -> list[np.ndarray]:
    """Each class (`classes` (count,) int64 holds every sample's) is split over the clients by a draw from Dir(alpha).

    A small alpha gives most of a class to few clients, a large one gives all the same share (Yurochkin et al. 2019,
    arXiv 1905.12022). As there, shares are drawn anew until the smallest shard is large enough.
    """
    _check_count(len(classes), clients, min_shard)
    generator = np.random.default_rng(seed)
    sizes = np.bincount(classes)
    for _ in range(DRAWS):
        ends = _ends(generator.dirichlet(np.full(clients, alpha), size=len(sizes)), sizes)
        if np.diff(ends, prepend=0).sum(axis=0).min() >= min_shard:
            break
    else:
        raise UserError(
            f"data.min_shard={min_shard}: in {DRAWS} draws with data.alpha={alpha:g} some of fed.clients={clients} "
            f"always had fewer of the {len(classes)} samples; raise data.alpha, or lower data.min_shard or fed.clients"
        )
    shuffled = [generator.permutation(np.flatnonzero(classes == number)) for number in range(len(sizes))]
    parts = [np.split(members, own[:-1]) for members, own in zip(shuffled, ends, strict=True)]
    return [np.sort(np.concatenate(shard)) for shard in zip(*parts, strict=True)]


def whole_groups(groups: np.ndarray, clients: int, seed: int, min_shard: int = 1) -> list[np.ndarray]:
    """Samples of one group (`groups` (count,) int64 holds every sample's) stay together.

    The largest group that is left goes to the smallest shard, so that sizes are as even as the groups allow; among
    equals the seed decides.
    """
    _check_count(len(groups), clients, min_shard)
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    owner, totals = np.empty(len(sizes), np.int64), np.zeros(clients, np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        owner[group] = totals.argmin()
        totals[owner[group]] += sizes[group]
    if totals.min() < min_shard:
        raise UserError(
            f"data.min_shard={min_shard}: {len(sizes)} sources cannot give each of fed.clients={clients} as many "
            "samples; lower data.min_shard or fed.clients, or choose another data.partition"
        )
    return [np.flatnonzero(owner[groups] == client) for client in range(clients)]


def _ends(shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where each client's part of each class ends, (classes, clients) int64, from shares that sum to 1 a class."""
    ends = np.rint(shares.cumsum(axis=1) * sizes[:, None]).astype(np.int64)
    ends[:, -1] = sizes  # a sum of shares is 1 only up to rounding
    return np.asarray(np.minimum(ends, sizes[:, None]))


def _check_count(count: int, clients: int, min_shard: int) -> None:
    if count < clients * min_shard:
        least = "one" if min_shard == 1 else f"data.min_shard={min_shard}"
        raise UserError(
            f"fed.clients={clients} but data has {count} training samples: every client needs {least}; "
            "lower fed.clients or raise data.train_samples"
        )
