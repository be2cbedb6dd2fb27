"""From what a role did to rows of the log, table by table (see schema.py)."""

import json
import math
import time

from splitcom_dist.codec.frames import Frames
from splitcom_dist.codec.header import Header
from splitcom_dist.codec.visit import Visit
from splitcom_dist.control.controller import Decision
from splitcom_dist.links import LINK_CODES
from splitcom_dist.metrics.perplexity import Perplexity
from splitcom_dist.telemetry.hdf5 import RankLog

SERVER = -1  # stands in the client column of the combined row, which the first server writes


def record_similarity(log: RankLog, epoch: int, header: Header, visit: Visit, frames: Frames) -> None:
    """One row a sample that has a reference: how far its activation has moved since the last upload."""
    if frames.similarity is None or frames.sent is None:
        return
    columns = frames.similarity.cosine, frames.similarity.relative_l2.T, visit.lengths, frames.sent
    for sample, cosine, quantiles, tokens, sent in zip(
        visit.samples, *(each.tolist() for each in columns), strict=True
    ):
        if math.isnan(cosine):
            continue
        p10, p50, p90, largest = quantiles
        log.append(
            "similarity",
            step=header.step,
            epoch=epoch,
            client=header.client,
            link=header.link,
            sample=sample,
            tokens=tokens,
            cosine=cosine,
            rel_l2_p10=p10,
            rel_l2_p50=p50,
            rel_l2_p90=p90,
            rel_l2_max=largest,
            sent=sent,
        )


def record_training(
    log: RankLog,
    step: int,
    epoch: int,
    client: int,
    *,
    loss: float,
    tokens: int,
    targets: int,
    lr: float,
    seconds: float,
    wait: float,
) -> None:
    """One step of one client at one end, or of all clients as the first server saw it (client = SERVER)."""
    log.append(
        "train",
        step=step,
        epoch=epoch,
        client=client,
        loss=loss,
        tokens=tokens,
        target_tokens=targets,
        lr=lr,
        seconds=seconds,
        wait=wait,
    )


def record_event(log: RankLog, step: int, kind: str, text: str) -> None:
    log.append("events", time=time.time(), step=step, kind=kind, text=text)


def record_round(
    log: RankLog,
    step: int,
    epoch: int,
    participants: int,
    weight: float,
    size: int,
    seconds: float,
    movement: float = math.nan,
) -> None:
    """One averaging as this rank saw it: its own logical clients, the total weight, the bytes it handed over, and, if
    it knows, how far the average has moved."""
    log.append(
        "rounds",
        step=step,
        epoch=epoch,
        participants=participants,
        weight=weight,
        bytes=size,
        seconds=seconds,
        movement=movement,
    )


def record_gradients(
    log: RankLog, step: int, epoch: int, clients: int, targets: int, size: int, seconds: float
) -> None:
    """One sum of gradients as this server saw it: its own clients, all targets, the bytes it handed over."""
    log.append("gradients", step=step, epoch=epoch, clients=clients, targets=targets, bytes=size, seconds=seconds)


def record_evaluation(log: RankLog, step: int, epoch: int, result: Perplexity, seconds: float) -> None:
    log.append(
        "eval",
        step=step,
        epoch=epoch,
        split="validation",
        loss=result.loss,
        ppl=result.ppl,
        samples=result.samples,
        tokens=result.targets,
        seconds=seconds,
    )


def record_threshold(log: RankLog, step: int, epoch: int, controller: str, decision: Decision) -> None:
    state = {name: float(f"{value:.6g}") for name, value in decision.state.items()}
    log.append(
        "threshold",
        step=step,
        epoch=epoch,
        link=LINK_CODES[decision.link],
        theta=decision.theta,
        controller=controller,
        reason=decision.reason,
        state=json.dumps(state),
    )
