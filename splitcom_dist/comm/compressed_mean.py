"""Adapters between ranks as INT8 changes of a vector that both ends hold already; what rounding drops is made up later.

A packet is a bf16 scale a group of 128 elements and a signed byte an element: 1.016 bytes an element against 4.
"""

import math
import zlib
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from splitcom_dist.codec.quantize import Int8
from splitcom_dist.comm.failures import naming
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.errors import UserError, WireError

GROUP = 128  # elements that share a scale
ANNOUNCEMENT = 16  # bytes every rank gives before a round: what it holds, and its weight
CHECKSUM = 8  # bytes before a change that goes to one receiver
_INT8 = Int8(torch.float32)


def packet_bytes(length: int) -> int:
    """Bytes of a quantised change (length,)."""
    return _INT8.scale_bytes(-(-length // GROUP)) + length


def quantize(change: Tensor) -> Tensor:
    """A change (n,) as a uint8 packet: scales, then symbols.

    Error of an element at most absmax/127 * (1/2 + 2^-7), absmax that of its group.
    """
    scales, symbols = _INT8.encode(pad(change, (0, -len(change) % GROUP)).view(-1, GROUP))
    return torch.cat([scales, symbols[: len(change)]])


def dequantize(packet: Tensor, length: int) -> Tensor:
    """The change (length,) in float32. Raises WireError if a scale is NaN or infinite."""
    scales, symbols = packet[:-length], packet[-length:]
    if not bool(scales.clone().view(torch.bfloat16).isfinite().all()):
        raise WireError("scales: NaN or infinite")
    symbols = pad(symbols, (0, -length % GROUP))
    return _INT8.decode(scales, symbols, len(symbols) // GROUP, GROUP).view(-1)[:length]


class CompressedMean:
    """One rank's end of the averaging: the last agreed mean (n,), and what of its own share has not arrived yet.

    Local steps with error feedback (Basu et al. 2019, Qsparse-local-SGD, arXiv 1906.02735, Algorithm 1; why the memory
    is needed: Karimireddy et al. 2019, arXiv 1901.09847, Algorithm 2). With m the mean before the round, v_i the
    vectors, a_i = w_i / sum(w) and e_i the residuals: q_i = Q(a_i (v_i - m) + e_i), e_i becomes a_i (v_i - m) + e_i -
    q_i, and m becomes m + sum(q_i). So m + sum(e_i) moves exactly as an exact average would, whatever the weights and
    whoever rests, provided that every sender goes on from the mean it was given: v_i is m and its local steps.
    """

    def __init__(self, start: Tensor, group: dist.ProcessGroup) -> None:
        """`start` (n,) float32: the adapter before training, the same on every rank of `group`."""
        self._group = group
        self._mean = start.clone()
        self._residual = torch.zeros_like(start)
        self._round = 0

    def mean(self, vector: Tensor | None, weight: float, step: int) -> tuple[Tensor, float, int]:
        """The agreed mean (n,), the total weight, and the bytes this rank handed over; all ranks of the group call it.

        `vector` (n,) float32 is this rank's own mean and `weight` its target tokens; None and 0 for a rank that only
        listens, which hands over its 16 bytes of announcement and no packet. If nobody has a weight the mean stays.
        The bytes are those given to the collectives, once; the transport copies a packet to every other rank of the
        group. Over the whole group senders x (ranks - 1) packets move, in a float32 all-reduce 2 x (ranks - 1) vectors:
        from 8 senders on INT8 saves nothing there.

        Raises UserError on every rank if a vector or weight is NaN or infinite; WireError if ranks do not hold the
        same mean or a packet is damaged; PeerLost. The state is then that of before the round.
        """
        if (vector is None) != (weight == 0) or weight < 0 or (vector is not None and vector.shape != self._mean.shape):
            raise ValueError(f"weight {weight}, vector {vector if vector is None else tuple(vector.shape)}")
        what = f"adapter averaging, round {self._round}"
        ranks = dist.get_process_group_ranks(self._group)
        weights, size = self._announce(vector, weight, what)
        total = math.fsum(weights)
        mean, residual = self._mean.clone(), self._residual
        wanted = residual if vector is None else (vector - mean) * (weight / total) + residual
        for rank, share in zip(ranks, weights, strict=True):
            if share == 0:
                continue
            packet = torch.empty(packet_bytes(len(mean)), dtype=torch.uint8)
            if own := rank == dist.get_rank():
                packet = quantize(wanted)
                size += packet.nbytes
            with naming("a rank", ranks, what):
                dist.broadcast(packet, src=rank, group=self._group)
            try:
                change = dequantize(packet, len(mean))
            except WireError as error:
                raise WireError(f"rank {rank}, {what}: {error}") from None
            if own:
                residual = wanted - change
            mean += change  # in the order of ranks on every rank, without fused operations: the same bits everywhere
        self._mean, self._residual, self._round = mean, residual, self._round + 1
        return mean.clone(), total, size

    def _announce(self, vector: Tensor | None, weight: float, what: str) -> tuple[list[float], int]:
        """Every rank's weight, told before any packet: a rank that cannot go on says so, and no other waits for it."""
        finite = vector is None or bool(vector.isfinite().all())
        digest = zlib.crc32(self._mean.numpy().data, self._round)  # below 2^32: float64 holds it exactly
        own = torch.tensor([digest, weight if finite else math.nan], dtype=torch.float64)
        everyone = [torch.empty_like(own) for _ in range(self._group.size())]
        ranks = dist.get_process_group_ranks(self._group)
        with naming("a rank", ranks, what):
            dist.all_gather(everyone, own, group=self._group)
        for rank, (other, announced) in zip(ranks, (pair.tolist() for pair in everyone), strict=True):
            if not math.isfinite(announced):
                raise UserError(
                    f"{what}: the adapter of rank {rank} holds NaN or infinite values: "
                    "lower train.lr or set train.max_grad_norm"
                )
            if other != digest:
                raise WireError(f"rank {rank}, {what}: digest: its last mean or round is not rank {dist.get_rank()}'s")
        return [float(pair[1]) for pair in everyone], own.nbytes

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on exactly here: the last mean (n,), this rank's residual (n,), the round."""
        return {"mean": self._mean, "residual": self._residual, "round": torch.tensor(self._round)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. Raises UserError if it is that of another adapter."""
        _check_length(state["mean"], self._mean)
        self._mean, self._residual = state["mean"].clone(), state["residual"].clone()
        self._round = int(state["round"])


class _DeltaEnd:
    """What both ends of a delta stream hold: the reconstruction (n,) and how many changes made it."""

    def __init__(self, start: Tensor) -> None:
        """`start` (n,) float32: what the receiver knows before the first change, e.g. the seeded initial adapter."""
        self._held = start.clone()
        self._round = 0

    def _checksum(self, held: Tensor) -> Tensor:
        return torch.tensor([zlib.crc32(held.numpy().data, self._round)]).view(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on exactly here: the reconstruction (n,) and the round."""
        return {"held": self._held, "round": torch.tensor(self._round)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` of either end gave. Raises UserError if it is that of another adapter."""
        _check_length(state["held"], self._held)
        self._held, self._round = state["held"].clone(), int(state["round"])


class DeltaSender(_DeltaEnd):
    """Sends a vector as INT8 changes of its last reconstruction.

    What rounding dropped is part of the next difference, so errors do not add up and no residual is kept: adding one
    would send it twice (EF21, Richtárik et al. 2021, arXiv 2106.05203, Algorithm 2). For a vector that rests the
    error falls by 1/250 a message.
    """

    def send(self, vector: Tensor, pair: GlooPair) -> int:
        """Send `vector` (n,); returns the bytes. Raises UserError on NaN or infinity (nothing is sent), PeerLost."""
        what = f"sending adapters, round {self._round}"
        if vector.shape != self._held.shape:
            raise ValueError(f"vector {tuple(vector.shape)}, {tuple(self._held.shape)} expected")
        if not bool(vector.isfinite().all()):
            raise UserError(
                f"{what}: the adapter of rank {dist.get_rank()} holds NaN or infinite values: "
                "lower train.lr or set train.max_grad_norm"
            )
        packet = quantize(vector - self._held)
        held = self._held + dequantize(packet, len(vector))
        message = torch.cat([self._checksum(held), packet])
        with naming(f"rank {pair.peer}", [pair.peer], what):
            pair.send(message)
        self._held, self._round = held, self._round + 1
        return message.nbytes


class DeltaReceiver(_DeltaEnd):
    """The other end of a DeltaSender with the same `start`."""

    def receive(self, pair: GlooPair) -> Tensor:
        """The sender's reconstruction (n,), bit for bit.

        Raises WireError if it is not (a damaged packet, ends resumed from different checkpoints), PeerLost.
        """
        what = f"receiving adapters, round {self._round}"
        checksum = self._checksum(self._held)
        message = torch.zeros(checksum.nbytes + packet_bytes(len(self._held)), dtype=torch.uint8)
        with naming(f"rank {pair.peer}", [pair.peer], what):
            pair.receive(message)
        try:
            held = self._held + dequantize(message[checksum.nbytes :], len(self._held))
        except WireError as error:
            raise WireError(f"rank {pair.peer}, {what}: {error}") from None
        if not self._checksum(held).equal(message[: checksum.nbytes]):
            raise WireError(f"rank {pair.peer}, {what}: checksum: the reconstruction is not the sender's")
        self._held, self._round = held, self._round + 1
        return held.clone()


def _check_length(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise UserError(
            f"checkpoint: adapters of {found.numel()} elements, {expected.numel()} expected: "
            "resume with the model and lora settings of the run that wrote it"
        )
