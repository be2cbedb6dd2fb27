"""Every table and column of the logs, with unit and meaning. The files carry this with them."""

from dataclasses import dataclass
from functools import cache

import numpy as np

SCHEMA_VERSION = 6


@dataclass(frozen=True)
class Column:
    name: str
    dtype: str
    unit: str
    meaning: str
    shape: tuple[int, ...] = ()  # of an entry


STEP = Column("step", "i8", "count", "step of the whole run, from 0")
EPOCH = Column("epoch", "i4", "count", "epoch, from 0; -1 before training")
CLIENT = Column("client", "i4", "id", "logical client; -1 for all together, as the first server saw the step")
LINK = Column("link", "i1", "code", "0 up_activation, 1 down_gradient, 2 down_activation, 3 up_gradient")
VALUES = Column(  # an entry has shape (k,), k = telemetry.sketch; (1,) in an empty table
    "values",
    "f2",
    "1",
    "count sketch of the whole sample over its norm, seeded alike everywhere: dot products tell cosines of visits",
    (1,),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "traffic": (
        STEP,
        EPOCH,
        CLIENT,
        LINK,
        Column(
            "side",
            "i1",
            "code",
            "0 sent, 1 received; only rows of senders are traffic, the others check them",
        ),
        Column("tokens", "i4", "count", "token positions the packet stands for"),
        Column("raw_padded", "i8", "byte", "what the padded baseline would send: samples x max_length x d"),
        Column("raw_real", "i8", "byte", "what a baseline without padding would send: tokens x d"),
        Column("wire", "i8", "byte", "the whole packet as handed to the transport"),
        Column("label", "i8", "byte", "labels, a part of wire"),
        Column("n_I", "i4", "count", "token positions sent whole"),
        Column("n_P", "i4", "count", "token positions sent as a change"),
        Column("n_S", "i4", "count", "token positions not sent"),
        Column("n_C", "i4", "count", "token positions that are not finite: sent raw and not remembered (cold)"),
        Column("t_encode", "f4", "s", "encoding; NaN on the receiving side"),
        Column("t_send", "f4", "s", "handing the packet to the transport; NaN on the receiving side"),
        Column("t_decode", "f4", "s", "decoding; NaN on the sending side"),
    ),
    "similarity": (
        STEP,
        EPOCH,
        CLIENT,
        LINK,
        Column("sample", "i8", "id", "sample, as its client numbers it"),
        Column("tokens", "i4", "count", "token positions of the sample"),
        Column("cosine", "f4", "1", "cosine of the sample's sketch to its reference's"),
        Column("rel_l2_p10", "f4", "1", "relative L2 change of a token against its reference, 10 % quantile"),
        Column("rel_l2_p50", "f4", "1", "the same, median; from sketches where the store holds sketches"),
        Column("rel_l2_p90", "f4", "1", "the same, 90 % quantile"),
        Column("rel_l2_max", "f4", "1", "the same, largest"),
        Column("sent", "i1", "bool", "whether the sample was sent again"),
    ),
    "sketch": (
        STEP,
        EPOCH,
        CLIENT,
        LINK,
        Column("sample", "i8", "id", "sample, as its client numbers it; a row at every visit if telemetry.sketch > 0"),
        Column("tokens", "i4", "count", "token positions of the sample"),
        Column("target_start", "i4", "count", "first position that predicts a target; -1 if the sender has no labels"),
        Column("shared", "i4", "count", "first positions whose prefix an earlier sample of the shard has; -1: no text"),
        Column("norm", "f4", "1", "L2 norm of all the sample's rows"),
        Column("energy_first", "f4", "1", "share of the squared norm at the first position"),
        Column("energy_massive", "f4", "1", "share of it in the 4 channels largest in the first batch sent here"),
        *(
            Column(f"{name}{part}", "f4", "1", f"{meaning}{without}")
            for name, meaning in (
                ("cosine", "cosine to the sample's previous visit, NaN at the first; positions sketched"),
                ("rel_l2", "|now - previous visit| / |now|; positions sketched"),
            )
            for part, without in (
                ("", ""),
                ("_no_first", "; without the first position"),
                ("_no_massive", "; without the 4 largest channels"),
                ("_neither", "; without both"),
            )
        ),
        Column("rel_l2_source", "f4", "1", "rel_l2 over source positions, the first among them"),
        Column("rel_l2_target", "f4", "1", "rel_l2 over target positions"),
        Column("rel_l2_position", "f2", "1", "rel_l2 by position: 0, 1, 2-3, 4-7, ... 512-1023, from 1024 on", (12,)),
        VALUES,
    ),
    "threshold": (
        STEP,
        EPOCH,
        LINK,
        Column("theta", "f8", "1", "the action: threshold from the next step on"),
        Column("controller", "S16", "name", "what decided"),
        Column("reason", "S96", "text", "why"),
        Column("state", "S256", "json", "the figures it was taken from"),
    ),
    "eval": (
        STEP,
        EPOCH,
        Column("split", "S16", "name", "validation or test"),
        Column("loss", "f8", "nat", "mean negative log-likelihood of a target token"),
        Column("ppl", "f8", "1", "exp(loss)"),
        Column("samples", "i4", "count", "samples evaluated"),
        Column("tokens", "i8", "count", "target tokens evaluated"),
        Column("seconds", "f4", "s", "duration"),
    ),
    "train": (
        STEP,
        EPOCH,
        CLIENT,
        Column(
            "loss",
            "f8",
            "nat",
            "mean over target tokens; NaN where the other end computes it: clients in the U-shape, else the server",
        ),
        Column("tokens", "i4", "count", "real token positions"),
        Column("target_tokens", "i4", "count", "positions with a label"),
        Column("lr", "f4", "1", "learning rate of the step"),
        Column("seconds", "f4", "s", "computing, encoding and sending"),
        Column("wait", "f4", "s", "waiting for the peer"),
    ),
    "rounds": (
        STEP,
        EPOCH,
        Column("participants", "i4", "count", "logical clients of this rank in the average"),
        Column("weight", "f8", "count", "target tokens behind the whole average"),
        Column("bytes", "i8", "byte", "adapter bytes this rank handed to the transport"),
        Column("seconds", "f4", "s", "duration"),
        Column("movement", "f8", "1", "Euclidean norm of the average's change; NaN but where the aggregator logs it"),
    ),
    "gradients": (
        STEP,
        EPOCH,
        Column("clients", "i4", "count", "logical clients that this server has served in the step"),
        Column("targets", "i8", "count", "target tokens behind the sum over all servers"),
        Column("bytes", "i8", "byte", "gradient bytes this server handed to the transport, counted as adapters"),
        Column("seconds", "f4", "s", "duration, and waiting for the other servers"),
    ),
    "events": (
        Column("time", "f8", "s", "since 1970-01-01 UTC"),
        STEP,
        Column("kind", "S24", "name", "what kind of event"),
        Column("text", "S232", "text", "what happened"),
    ),
}


@cache
def row_dtype(table: str, sketch: int = 0) -> np.dtype:
    """The compound type of a table's rows, with sketches of so many values; KeyError for an unknown table."""
    shapes = [(max(1, sketch),) if column is VALUES else column.shape for column in TABLES[table]]
    return np.dtype([(column.name, column.dtype, shape) for column, shape in zip(TABLES[table], shapes, strict=True)])
