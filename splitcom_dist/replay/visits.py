"""Who passed a link's gate when: every visit of every sample, and what the logs say of it."""

from dataclasses import dataclass

import numpy as np

from splitcom_dist.links import LINKS
from splitcom_dist.replay.logs import RunLogs
from splitcom_dist.replay.packets import Packets

UNLOGGED = -1  # the packet of a first visit that only its followers tell of


@dataclass(frozen=True)
class Visits:
    """The visits to one link in the order of steps, one value each (V,).

    `previous` and `reference` are visits of the same sample: the last one, and the one whose values the run's own
    reference was made of; -1 for none. Cosines are NaN where the logs have none.
    """

    packet: np.ndarray  # index, or UNLOGGED
    who: np.ndarray  # the client's sample, numbered from 0
    ordinal: np.ndarray  # of the sample's visits, from 0
    tokens: np.ndarray
    previous: np.ndarray
    reference: np.ndarray
    sent: np.ndarray  # bool, by the run
    cosine: np.ndarray  # to `reference`, as the run's gate saw it
    previous_cosine: np.ndarray  # to `previous`
    norm: np.ndarray  # L2, of the sample; NaN where it is not logged
    values: np.ndarray  # (V, k) sketches; k = 0 without


def visits_of(logs: RunLogs, packets: Packets) -> Visits:
    """From sketches if the run logged them, else from the similarities of its gate."""
    code = LINKS.index(packets.link)
    near = logs.similarity[logs.similarity["link"] == code]
    if getattr(logs.config.codec, packets.link).gate != "cosine":
        near = near[:0]  # to references by position, which are no visit's
    rows = logs.sketch[logs.sketch["link"] == code]
    sketched = len(rows) > 0
    if not sketched:
        rows = near
    rows = rows[np.argsort(rows["step"], kind="stable")]
    keys, who = np.unique(_names(rows), return_inverse=True)
    step = rows["step"].astype(np.int64)
    packet = _index(_at(step, rows["client"]), _at(packets.step, packets.client))
    cosine, sent = np.full(len(rows), np.nan), np.ones(len(rows), bool)
    if len(near):
        known = np.isin(_names(near), keys)
        place = np.searchsorted(keys, _names(near)[known])
        found = _index(near["step"][known] * len(keys) + place, step * len(keys) + who)
        cosine[found], sent[found] = near["cosine"][known], near["sent"][known] != 0
    tokens = rows["tokens"].astype(np.int64)
    missing = np.full(len(rows), np.nan)
    previous_cosine, norm = (rows["cosine"], rows["norm"]) if sketched else (missing, missing)
    values = rows["values"] if sketched else np.zeros((len(rows), 0), np.float16)
    if not sketched:  # a similarity is to something: to a first visit, of which there is no row
        first = np.unique(who, return_index=True)[1]
        before = len(first)
        packet = np.concatenate([np.full(before, UNLOGGED), packet])
        who, tokens = np.concatenate([who[first], who]), np.concatenate([tokens[first], tokens])
        cosine, sent = np.concatenate([np.full(before, np.nan), cosine]), np.concatenate([np.ones(before, bool), sent])
        missing = np.full(len(who), np.nan)
        previous_cosine, norm, values = missing, missing, np.zeros((len(who), 0), np.float16)
    previous, ordinal = _chain(who)
    reference = _references(previous, ordinal, sent)
    return Visits(packet, who, ordinal, tokens, previous, reference, sent, cosine, previous_cosine, norm, values)


def _names(rows: np.ndarray) -> np.ndarray:
    """A client's sample as one number: ids are below 2^32."""
    return np.asarray(rows["client"].astype(np.int64) << 32 | rows["sample"])


def _at(step: np.ndarray, client: np.ndarray) -> np.ndarray:
    return np.asarray(step.astype(np.int64) << 24 | client.astype(np.int64))


def _index(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each value is, the last place of several; all must be there."""
    order = np.argsort(among, kind="stable")
    return np.asarray(order[np.searchsorted(among[order], wanted, side="right") - 1])


def _chain(who: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each visit the visit before of the same sample, and how many there were."""
    order = np.argsort(who, kind="stable")
    same = np.concatenate([[False], who[order][1:] == who[order][:-1]]) if len(who) else np.zeros(0, bool)
    previous, ordinal = np.full(len(who), -1), np.zeros(len(who), np.int64)
    previous[order[same]] = order[np.flatnonzero(same) - 1]
    starts = np.flatnonzero(~same)
    ordinal[order] = np.arange(len(who)) - np.repeat(starts, np.diff([*starts, len(who)]))
    return previous, ordinal


def _references(previous: np.ndarray, ordinal: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Of each visit the last one before that was sent."""
    reference = np.full(len(previous), -1)
    for turn in range(1, int(ordinal.max(initial=0)) + 1):
        rows = np.flatnonzero(ordinal == turn)
        before = previous[rows]
        reference[rows] = np.where(sent[before], before, reference[before])
    return reference
