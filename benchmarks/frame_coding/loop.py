"""The closed loop of both ends: each packet is sent by rule against what the receiver holds."""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from dumps import Packet, first_rows
from motion import low_rank_map, with_constant
from rate import code_rows, groups, norm
from torch import Tensor
from transforms import LEARN, hadamard, shared_basis


@dataclass(frozen=True)
class Scheme:
    """What a sender may use; numbers are directions, 0 for none."""

    klt: int = 0  # one basis for I and P, learnt from the run's first packets
    refit: int = 0  # a basis for P, learnt anew in every epoch from its first packets' deltas
    motion: int = 0  # rank of a linear prediction of change from reference, learnt in the same way
    named: str = ""  # a first visit is predicted from another row: the "nearest" sent, or the last of like "context"
    groups: bool = False  # I frames at 4 bit in groups of 32
    prefix: bool = True
    rounding: float = 0.4


LOOPS = {
    "4-bit groups, Hadamard": Scheme(groups=True, rounding=0.5),
    "Hadamard": Scheme(rounding=0.5),
    "Hadamard, keyed by position": Scheme(rounding=0.5, prefix=False),
    "Hadamard, rounding 0.4": Scheme(),
    "KLT 64": Scheme(klt=64),
    "KLT all": Scheme(klt=-1),
    "KLT all, refit 32": Scheme(klt=-1, refit=32),
    "KLT all, refit all": Scheme(klt=-1, refit=-1),
    "KLT all, motion 16": Scheme(klt=-1, motion=16),
    "KLT all, context": Scheme(klt=-1, named="context"),
    "KLT all, nearest": Scheme(klt=-1, named="nearest"),
    "Hadamard, context": Scheme(named="context"),
    "KLT all, context, refit 32, motion 16": Scheme(klt=-1, refit=32, motion=16, named="context"),
}


@dataclass(frozen=True)
class Sent:
    """One packet as it was sent: bytes; those that do not grow with the shard; frames; what P frames had to say."""

    epoch: int
    bytes: float
    side: float
    positions: int
    intra: int
    deltas: Tensor
    rows: Tensor


def run(packets: list[Packet], tau: float, kappa: float, scheme: Scheme) -> list[Sent]:
    """Send by rule: skip within tau of the last reconstruction, else P if that leaves less than the row, else I."""
    width = packets[0].activation.shape[1]
    store = torch.zeros(1 + max(int(packet.position.max()) for packet in packets), width)
    known, contexts = torch.zeros(len(store), dtype=torch.bool), torch.full((len(store), 4), -1)
    intra_by = predicted_by = hadamard(width)
    motion, epoch = None, -1
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # of this epoch: rows, references, and where there was one
    log: list[Sent] = []
    for packet in packets:
        if packet.epoch != epoch:
            epoch, motion, history = packet.epoch, None, []
        all_keys = packet.prefix if scheme.prefix else packet.position
        rows = first_rows(all_keys, set())
        keys, x, context = all_keys[rows], packet.activation[rows], endings(packet)[rows]
        old, reference, size = known[keys], store[keys], norm(packet.activation[rows])
        history.append((x, reference.clone(), old))
        if motion is not None:
            reference[old] += with_constant(reference[old]) @ motion
        total = len(x) / 8  # mode map: at most a bit a position
        if scheme.named and bool((~old).any()) and bool(known.any()):
            reference[~old] = other_rows(x[~old], context[~old], store[known], contexts[known], scheme.named)
            total += int((~old).sum()) * math.log2(len(store)) / 8
        change = norm(x - reference)
        send, whole = change > tau * size, change >= size
        reference[whole] = 0
        predicted = send & old & ~whole
        deltas = x[predicted] - reference[predicted]
        for mask, transform, in_groups in (
            (predicted, predicted_by, False),
            (send & ~predicted, intra_by, scheme.groups),
        ):
            left = x[mask] - reference[mask]
            decoded, size_bytes = (
                (groups(left, 4, hadamard(width))[1], left.numel() * 4.5 / 8)
                if in_groups
                else code_rows(left, size[mask], tau, kappa, transform, scheme.rounding)
            )
            reference[mask] += decoded
            total += size_bytes
        store[keys], known[keys], contexts[keys] = reference, True, context
        side = 0.0
        if len(history) == LEARN:
            rows_x, before, was = (torch.cat(column) for column in zip(*history, strict=True))
            change_x, before = (rows_x - before)[was], before[was]
            if scheme.klt and epoch == 0:
                intra_by = predicted_by = shared_basis(rows_x, scheme.klt)
                side += intra_by.side
            if scheme.motion and len(before):
                motion = low_rank_map(before, change_x, scheme.motion)
                change_x = change_x - with_constant(before) @ motion
                side += scheme.motion * (2 * width + 1)
            if scheme.refit and len(before):
                predicted_by = shared_basis(change_x, scheme.refit)
                side += predicted_by.side
        log.append(Sent(epoch, total, side, len(packet.prefix), int((send & ~predicted).sum()), deltas, x[predicted]))
    return log


def endings(packet: Packet) -> Tensor:
    """(T, 4): each position's token and the three before it, -1 before the text begins."""
    starts = torch.cat([torch.ones(1, dtype=torch.bool), packet.position.diff() != 1])
    depth = torch.arange(len(starts)) - torch.where(starts, torch.arange(len(starts)), 0).cummax(0).values
    return torch.stack([torch.where(depth >= n, packet.tokens.roll(n), -1) for n in range(4)], 1)


def other_rows(x: Tensor, context: Tensor, store: Tensor, contexts: Tensor, by: str) -> Tensor:
    """(n, d): for each row of x the nearest stored row, or the last stored one that shares most of its ending."""
    if by == "nearest":
        return store[torch.cdist(x, store).argmin(1)]
    shared = (context.unsqueeze(1) == contexts).cumprod(2).sum(2)
    found = store[(shared * len(store) + torch.arange(len(store))).argmax(1)]
    found[shared.amax(1) == 0] = 0
    return found


def fractions(packets: list[Packet], log: list[Sent], copies: float) -> dict[str, list[float]]:
    """By epoch: bytes over those of FP16, on this shard and with side bytes spread over `copies` of it; frames."""
    width, found = packets[0].activation.shape[1], defaultdict(list)
    for epoch in range(1 + log[-1].epoch):
        sent = [each for each in log if each.epoch == epoch]
        positions, side = sum(each.positions for each in sent), sum(each.side for each in sent)
        body = sum(each.bytes for each in sent)
        found["this"].append((body + side) / (2 * width * positions))
        found["large"].append((body + side / copies) / (2 * width * positions))
        found["P"].append(sum(len(each.rows) for each in sent) / positions)
        found["I"].append(sum(each.intra for each in sent) / positions)
    return found
