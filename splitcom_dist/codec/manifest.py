"""What the opening packet of a step says of its batch: sample ids, lengths, and where new samples' keys come from."""

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from splitcom_dist.codec.header import Expected, Header
from splitcom_dist.codec.prefix import KeyBook, News
from splitcom_dist.codec.visit import Visit
from splitcom_dist.errors import UserError, WireError

NO_PARENT = 2**32 - 1
PATH_FOLLOWS = 2**15
RECORD = np.dtype([("sample", "<u4"), ("positions", "<u2")])  # packed: 6 bytes


def pack_manifest(samples: list[int], lengths: list[int], news: News) -> np.ndarray:
    """What a packet says of its samples, uint8: one record a sample, then one for each that is news, in order.

    A record is uint32 sample and uint16 length, its top bit set for news; then uint32 parent (all ones for none) and
    uint16 shared length. Raises UserError for a length of 32768 or more, ValueError for news of no sample of the
    batch, a sample that is there twice and an id outside [0, 2^32 - 2].
    """
    if max(lengths, default=0) >= PATH_FOLLOWS:
        raise UserError(
            f"data.max_length: a sample has {max(lengths)} positions; at most {PATH_FOLLOWS - 1} can be told"
        )
    if not set(news) <= set(samples) or len(set(samples)) < len(samples):
        raise ValueError("samples must be distinct, and news be of them")
    if any(not 0 <= sample < NO_PARENT for sample in samples):
        raise ValueError(f"sample ids must be in [0, {NO_PARENT})")
    heads = [
        (sample, length | PATH_FOLLOWS * (sample in news)) for sample, length in zip(samples, lengths, strict=True)
    ]
    origins = [news[sample] for sample in samples if sample in news]
    tails = [(NO_PARENT if parent is None else parent, shared) for parent, shared in origins]
    return np.array([*heads, *tails], RECORD).view(np.uint8)


def parse_manifest(raw: bytes, count: int) -> tuple[list[int], list[int], News]:
    """Samples, lengths and news of a packet of `count` samples, as they were packed.

    Raises WireError for another size, a sample twice or with the id of none, and a length of 0. Whether a path can be
    true, the book says.
    """
    if len(raw) % RECORD.itemsize or len(raw) < count * RECORD.itemsize:
        raise WireError(f"manifest: {len(raw)} bytes for {count} samples")
    records = np.frombuffer(raw, RECORD)
    heads, tails = records[:count], records[count:]
    is_new = heads["positions"] >= PATH_FOLLOWS
    if len(tails) != np.count_nonzero(is_new):
        raise WireError(f"manifest: {len(tails)} paths for {np.count_nonzero(is_new)} new samples")
    samples: list[int] = heads["sample"].tolist()
    lengths: list[int] = (heads["positions"] % PATH_FOLLOWS).tolist()
    if len(set(samples)) < count or NO_PARENT in samples:
        raise WireError("manifest: samples must be distinct and have an id")
    if 0 in lengths:
        raise WireError(f"manifest: sample {samples[lengths.index(0)]} has no positions")
    parents = [None if parent == NO_PARENT else parent for parent in tails["sample"].tolist()]
    origins = zip(parents, tails["positions"].tolist(), strict=True)
    return samples, lengths, dict(zip(heads["sample"][is_new].tolist(), origins, strict=True))


def max_manifest_bytes(count: int) -> int:
    """Largest manifest of so many samples: all of them new."""
    return 2 * RECORD.itemsize * count


def named_visit(header: Header, manifest: Tensor, book: KeyBook | None, expected: Expected) -> Visit:
    """The batch that a packet names; without keys where there is no book, or its words do not fit it.

    Raises WireError naming peer, link, step and field if they contradict themselves or the header.
    """
    try:
        samples, lengths, news = parse_manifest(manifest.numpy().tobytes(), header.samples)
    except WireError as error:
        raise expected.error("manifest", str(error)) from None
    if not samples or sum(lengths) != header.tokens:
        raise expected.error("manifest", f"lengths {lengths} do not make {header.tokens} tokens")
    paths = None
    if book is not None:
        with suppress(WireError):  # the receiver lacks references then, and the link begins afresh
            paths = book.paths(samples, lengths, news)
    return Visit(samples, torch.tensor(lengths), paths)
