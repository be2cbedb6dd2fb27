"""Global motion: a linear map, learnt in each epoch, that predicts the change of rows from the rows before."""

import torch
from dumps import Packet, visits
from rate import TAUS, norm
from torch import Tensor
from transforms import LEARN, principal


def low_rank_map(before: Tensor, change: Tensor, k: int) -> Tensor:
    """(d + 1, d) of rank k: ridge regression of change on reference and a constant, reduced to k directions."""
    inputs = with_constant(before)
    gram = inputs.T @ inputs
    ridge = 1e-2 * gram.diagonal().mean() * torch.eye(len(gram))
    weights = torch.linalg.solve(gram + ridge, inputs.T @ change)
    directions = principal(inputs @ weights, k)
    reduced: Tensor = weights @ directions.T @ directions
    return reduced


def with_constant(rows: Tensor) -> Tensor:
    """A constant of the rows' own size, so that ridge regression may use it."""
    return torch.cat([rows, norm(rows).median().expand(len(rows), 1)], 1)


def global_motion(packets: list[Packet]) -> list[dict[str, float]]:
    """By epoch: share of the change's energy on unseen tokens that is predicted from the epoch before, uncompressed."""
    rows = []
    for epoch in range(1, 1 + packets[-1].epoch):
        before = {int(key): row for keys, x in visits(packets, epoch - 1) for key, row in zip(keys, x, strict=True)}
        pairs = [(torch.stack([before[int(key)] for key in keys]), x) for keys, x in visits(packets, epoch)]
        row: dict[str, float] = {}
        for part, stop in (("first two packets", LEARN), ("half the epoch", len(pairs) // 2)):
            (seen, new), (old, x) = ([torch.cat(c) for c in zip(*p, strict=True)] for p in (pairs[:stop], pairs[stop:]))
            change = x - old
            row[f"{part}: mean change"] = explained(change, (new - seen).mean(0))
            for k in (4, 8, 16, 32, -1):
                rank = old.shape[1] if k < 0 else k
                guess = with_constant(old) @ low_rank_map(seen, new - seen, rank)
                row[f"{part}: rank {'all' if k < 0 else k}"] = explained(change, guess)
                for tau in TAUS[:2] if k == 16 else ():
                    row[f"{part}: above {tau}"] = float((norm(change) > tau * norm(x)).float().mean())
                    row[f"{part}: above {tau}, rank 16"] = float((norm(change - guess) > tau * norm(x)).float().mean())
        rows.append(row)
    return rows


def explained(change: Tensor, guess: Tensor) -> float:
    return 1 - float((change - guess).square().sum() / change.square().sum())
