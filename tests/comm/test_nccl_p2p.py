"""The NCCL transport over a stand-in for NCCL: every wait ends, and what fails is an error."""

import time

import pytest
import torch
from torch import Tensor

from splitcom_dist.codec.header import Header
from splitcom_dist.comm.link import Edge
from splitcom_dist.comm.nccl_p2p import NcclTransport, within
from splitcom_dist.errors import PeerLost


class Transfer:
    """Done after so many looks, or never; then it may have failed."""

    def __init__(self, looks: float, failure: str = "") -> None:
        self.looks, self.failure, self.waited = looks, failure, False

    def is_completed(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def wait(self) -> None:
        self.waited = True
        if self.failure:
            raise RuntimeError(self.failure)


class Pair:
    def __init__(self, transfer: Transfer) -> None:
        self.transfer, self.aborted, self.calls = transfer, 0, list[tuple[str, Tensor, int]]()

    def send(self, tensors: list[Tensor], rank: int, tag: int) -> Transfer:
        self.calls.append(("send", tensors[0], rank))
        return self.transfer

    def recv(self, tensors: list[Tensor], rank: int, tag: int) -> Transfer:
        self.calls.append(("recv", tensors[0], rank))
        return self.transfer

    def abort(self) -> None:
        self.aborted += 1


def transport(pair: Pair) -> NcclTransport:
    return NcclTransport(pair, other=1, peer=7, device=torch.device("cpu"), timeout_seconds=0.2)


def test_transfers_go_to_the_other_rank_of_the_pair_and_are_waited_for() -> None:
    pair, message = Pair(Transfer(looks=3)), torch.arange(5, dtype=torch.uint8)
    transport(pair).send(message)
    pending = transport(pair).post_receive(message)
    assert [(kind, rank) for kind, _, rank in pair.calls] == [("send", 1), ("recv", 1)]
    assert all(tensor is message for _, tensor, _ in pair.calls), "no copy on the way"
    pending.wait()
    assert pair.transfer.waited and not pair.aborted


def test_a_transfer_that_is_never_done_is_aborted_when_the_time_is_over() -> None:
    for sends in (True, False):
        pair, started = Pair(Transfer(looks=float("inf"))), time.monotonic()
        with pytest.raises(RuntimeError, match=r"Timed out after 0.2 s of waiting for an NCCL transfer"):
            if sends:
                transport(pair).send(torch.zeros(1))
            else:
                transport(pair).post_receive(torch.zeros(1)).wait()
        assert 0.2 <= time.monotonic() - started < 2 and pair.aborted == 1


@pytest.mark.parametrize(
    ("transfer", "said"),
    [(Transfer(0, "NCCL error: remote process exited"), "is gone"), (Transfer(float("inf")), "was silent for longer")],
)
def test_a_payload_that_is_lost_names_the_peer(transfer: Transfer, said: str) -> None:
    class Taking:
        peer = 7

        def send(self, *messages: Tensor) -> None: ...

        def post_send(self, message: Tensor) -> Transfer:
            raise AssertionError

        def post_receive(self, buffer: Tensor) -> Transfer:
            raise AssertionError

    edge = Edge(Taking(), "rank 7 (server)", transport(Pair(transfer)))
    with pytest.raises(PeerLost, match=rf"rank 7 \(server\) {said}.* during up_activation, step 4") as caught:
        edge.send(Header(0, 4, 0), {"symbols": torch.zeros(9, dtype=torch.uint8)}, apart=True)
    assert caught.value.ranks == (7,)


def test_what_cannot_be_interrupted_is_left_behind() -> None:
    within(1.0, lambda: None)
    with pytest.raises(RuntimeError, match=r"Timed out after 0\.1 s"):
        within(0.1, lambda: time.sleep(1))
    with pytest.raises(RuntimeError, match="unhandled system error"):
        within(1.0, lambda: (_ for _ in ()).throw(ValueError("unhandled system error")))
