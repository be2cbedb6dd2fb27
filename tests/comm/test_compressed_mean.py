"""INT8 averaging between real Gloo ranks: the same bits everywhere, nothing lost for good, every byte counted."""

import math
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.comm.compressed_mean import (
    CompressedMean,
    DeltaReceiver,
    DeltaSender,
    dequantize,
    packet_bytes,
    quantize,
)
from splitcom_dist.comm.gloo_p2p import GlooPair
from splitcom_dist.errors import PeerLost, UserError, WireError

FORK = multiprocessing.get_context("fork")
SENDERS, LISTENER = 3, 3
ANNOUNCEMENT = 16


class Ranks:
    """Processes that form one Gloo group; each keeps one end and does to it what it is asked."""

    def __init__(self, folder: Path, count: int = SENDERS + 1, timeout: float = 20.0) -> None:
        pipes = [FORK.Pipe() for _ in range(count)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            FORK.Process(target=serve, args=(rank, count, folder / "store", timeout, pipes[rank][1]), daemon=True)
            for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def ask(self, calls: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Let ranks do their calls at the same time; replies by rank, an exception where one was raised."""
        for rank, call in calls.items():
            self.pipes[rank].send(call)
        replies = {}
        for rank in calls:
            assert self.pipes[rank].poll(30), f"rank {rank} hangs"
            replies[rank] = self.pipes[rank].recv()
        return replies

    def start(self, kind: type, start: Tensor) -> None:
        self.ask(dict.fromkeys(range(len(self.pipes)), ("new", kind, start)))

    def try_mean(self, vectors: list[Tensor | None], weights: list[float]) -> list[Any]:
        calls = {rank: ("mean", *given) for rank, given in enumerate(zip(vectors, weights, strict=True))}
        return list(self.ask(calls).values())

    def mean(self, vectors: Tensor, weights: list[float]) -> Tensor:
        """One round of vectors (senders, n) and the listener."""
        return self.rounds(vectors.unsqueeze(0), [weights])[0]

    def rounds(self, vectors: Tensor, weights: list[list[float]], adopt: bool = False, feedback: bool = True) -> Tensor:
        """Means (rounds, n) of vectors (rounds, senders, n), weight 0: resting; all must agree on every bit.

        With `adopt`, vectors are steps that every sender takes from the mean it was given.
        """
        count, _, length = vectors.shape
        silent = ("rounds", torch.zeros(count, length), [0.0] * count, adopt, feedback)
        of_senders = zip(vectors.unbind(dim=1), zip(*weights, strict=True), strict=True)
        calls = {rank: ("rounds", steps, own, adopt, feedback) for rank, (steps, own) in enumerate(of_senders)}
        replies = self.ask(calls | {LISTENER: silent})
        means: Tensor = replies[0][0]
        for rank, (found, totals, sizes) in replies.items():
            assert found.view(torch.int32).equal(means.view(torch.int32)), f"rank {rank} has another mean"
            assert totals == [sum(row) for row in weights]
            sends = [rank != LISTENER and row[rank] > 0 for row in weights]
            assert sizes == [ANNOUNCEMENT + (packet_bytes(length) if due else 0) for due in sends]
        return means

    def states(self) -> list[dict[str, Tensor]]:
        return list(self.ask(dict.fromkeys(range(len(self.pipes)), ("state",))).values())

    def reap(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def rounds(
    end: CompressedMean, vectors: Tensor, weights: list[float], adopt: bool, feedback: bool
) -> tuple[Tensor, list[float], list[int]]:
    """One rank's part of `Ranks.rounds`: means (rounds, n), total weights, bytes."""
    replies = []
    for step, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        state = end.state()
        moved = state["mean"] + vector if adopt else vector
        if not feedback:  # what a scheme without error feedback does after every round
            end.load(state | {"residual": torch.zeros_like(vector)})
        replies.append(end.mean(moved if weight else None, weight, step))
    means, totals, sizes = zip(*replies, strict=True)
    return torch.stack(means), list(totals), list(sizes)


def serve(rank: int, count: int, store: Path, timeout: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    shared = dist.FileStore(str(store), count)
    patience = timedelta(seconds=timeout)
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("all", shared), rank=rank, world_size=count, timeout=patience
    )
    pair = GlooPair(shared, "pair", rank, 1 - rank, timeout) if rank < 2 else None
    group = dist.group.WORLD
    assert group is not None
    end: Any = None
    while True:
        verb, *arguments = pipe.recv()
        reply: Any = None
        try:
            if verb == "new":
                kind, start = arguments
                end = kind(start, group) if kind is CompressedMean else kind(start)
            elif verb == "rounds":
                reply = rounds(end, *arguments)
            elif verb in ("state", "load"):
                reply = getattr(end, verb)(*arguments)
            elif verb == "mean":
                reply = end.mean(*arguments, step=0)
            else:
                reply = getattr(end, verb)(*arguments, pair)
        except Exception as error:
            reply = type(error)(str(error))
        pipe.send(reply)


@contextmanager
def running(folder: Path, count: int = SENDERS + 1, timeout: float = 20.0) -> Iterator[Ranks]:
    ranks = Ranks(folder, count, timeout)
    try:
        yield ranks
    finally:
        ranks.reap()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with running(tmp_path_factory.mktemp("gloo")) as ranks:
        yield ranks


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@given(length=st.integers(1, 400), exponent=st.integers(-30, 37), seed=st.integers(0, 2**32))
def test_an_element_is_off_by_at_most_half_a_step_of_its_group(length: int, exponent: int, seed: int) -> None:
    change = normal(seed, length) * 10.0**exponent
    packet = quantize(change)
    assert packet.dtype == torch.uint8 and packet.nbytes == length + 2 * math.ceil(length / 128)
    error = (dequantize(packet, length).double() - change.double()).abs()
    for found, group in zip(error.split(128), change.double().split(128), strict=True):
        assert found.max() <= group.abs().max() / 127 * (1 / 2 + 2**-7)


@settings(max_examples=25, deadline=None)
@given(
    length=st.sampled_from([1, 127, 128, 129, 300]),
    weights=st.lists(st.lists(st.integers(0, 5000), min_size=SENDERS, max_size=SENDERS), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
)
def test_only_the_residuals_are_missing_whatever_the_weights_and_whoever_rests(
    ranks: Ranks, length: int, weights: list[list[int]], seed: int
) -> None:
    start, steps = normal(seed, length), normal(seed + 1, len(weights), SENDERS, length)
    ranks.start(CompressedMean, start)
    mean = ranks.rounds(steps, [list(map(float, row)) for row in weights], adopt=True)[-1]
    exact = start.double()
    for row, round_steps in zip(weights, steps.double(), strict=True):
        exact += torch.tensor(row, dtype=torch.float64) @ round_steps / max(1, sum(row))
    missing = sum(state["residual"].double() for state in ranks.states())
    torch.testing.assert_close(mean.double() + missing, exact, rtol=0, atol=1e-5)


def test_the_same_steps_every_round_are_lost_without_error_feedback_and_not_with_it(ranks: Ranks) -> None:
    steps = normal(1, SENDERS, 1000).expand(100, -1, -1)
    exact = torch.tensor([100.0, 200.0, 300.0]).double() / 6 @ steps[0].double()
    errors = {}
    for feedback in (True, False):
        ranks.start(CompressedMean, torch.zeros(1000))
        means = ranks.rounds(steps, [[1.0, 2.0, 3.0]] * 100, adopt=True, feedback=feedback)
        errors[feedback] = relative(means[-1], exact)
    assert errors[True] < 1e-4 < 2e-3 < errors[False]


def test_vectors_that_never_take_the_mean_are_averaged_exactly_over_time(ranks: Ranks) -> None:
    vectors = normal(2, SENDERS, 1000)
    exact = vectors.double().mean(dim=0)
    ranks.start(CompressedMean, torch.zeros(1000))
    means = ranks.rounds(vectors.expand(100, -1, -1), [[7.0] * SENDERS] * 100)
    assert relative(means.double().mean(dim=0), exact) < 1e-4
    assert max(relative(mean, exact) for mean in means) < 0.02, "each single mean stays within two roundings"


def test_one_vector_alone_is_reached_in_a_few_rounds(ranks: Ranks) -> None:
    vector = normal(3, 1000)
    ranks.start(CompressedMean, torch.zeros(1000))
    means = ranks.rounds(vector.expand(7, SENDERS, -1), [[5.0, 0.0, 0.0]] * 7)
    assert relative(means[0], vector) > 1e-3, "one round must not be exact, or this says nothing"
    assert relative(means[-1], vector) < 1e-6


def test_random_walks_have_unbiased_means_only_with_error_feedback(ranks: Ranks) -> None:
    """Every sender drifts by less than half a step of its group's loudest element: plain rounding never sees it."""
    count, drift = 80, 1e-3
    steps = drift + 2e-4 * normal(4, count, SENDERS, 256)
    steps[:, :, ::128] = normal(5, count, SENDERS, 2).sign()  # one loud element a group sets the step
    exact = steps.double().mean(dim=1).cumsum(dim=0)
    bias = {}
    for feedback in (True, False):
        ranks.start(CompressedMean, torch.zeros(256))
        means = ranks.rounds(steps, [[1.0] * SENDERS] * count, adopt=True, feedback=feedback)
        quiet = torch.arange(256) % 128 != 0
        bias[feedback] = float((means.double() - exact)[:, quiet].mean() / exact[:, quiet].mean())
    assert abs(bias[True]) < 0.1
    assert bias[False] < -0.9


def test_sgd_with_int8_averaging_ends_at_the_loss_of_float32(ranks: Ranks) -> None:
    """Three workers, quadratics with different optima and curvatures, averaging every 5 of 200 steps."""
    curvature = 0.5 + normal(5, SENDERS, 300).abs()
    optimum = normal(6, SENDERS, 300) + 2

    def train(compressed: bool) -> float:
        mean = torch.zeros(300)
        ranks.start(CompressedMean, mean)
        generator = torch.Generator().manual_seed(7)
        for _ in range(40):
            vectors = torch.empty(SENDERS, 300)
            for worker in range(SENDERS):
                vector = mean.clone()
                for _ in range(5):
                    noise = 0.1 * torch.randn(300, generator=generator)
                    vector -= 0.05 * (curvature[worker] * (vector - optimum[worker]) + noise)
                vectors[worker] = vector
            mean = ranks.mean(vectors, [1.0] * SENDERS) if compressed else vectors.mean(dim=0)
        return float((curvature * (mean - optimum) ** 2).sum(dim=1).mean() / 2)

    exact, untrained = train(compressed=False), float((curvature * optimum**2).sum(dim=1).mean() / 2)
    assert exact < 0.5 * untrained, "training must move, or equality says nothing"
    assert train(compressed=True) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_adapter_is_refused_by_all_ranks_in_the_same_words_and_changes_nothing(
    ranks: Ranks, bad: float
) -> None:
    ranks.start(CompressedMean, torch.zeros(10))
    before = ranks.mean(torch.ones(SENDERS, 10), [1.0] * SENDERS)
    poisoned = torch.ones(10)
    poisoned[3] = bad
    replies = ranks.try_mean([torch.ones(10), poisoned, torch.ones(10), None], [1.0, 1.0, 1.0, 0.0])
    assert all(isinstance(reply, UserError) for reply in replies)
    assert {str(reply) for reply in replies} == {
        "adapter averaging, round 1: the adapter of rank 1 holds NaN or infinite values: "
        "lower train.lr or set train.max_grad_norm"
    }
    assert all(state["mean"].equal(before) for state in ranks.states())
    assert torch.isfinite(ranks.mean(torch.ones(SENDERS, 10), [1.0] * SENDERS)).all()


def test_a_difference_too_large_for_float32_is_refused_by_all(ranks: Ranks) -> None:
    ranks.start(CompressedMean, torch.full((10,), -3e38))
    replies = ranks.try_mean([torch.full((10,), 3e38), None, None, None], [1.0, 0.0, 0.0, 0.0])
    assert {str(reply) for reply in replies} == {"rank 0, adapter averaging, round 0: scales: NaN or infinite"}


def test_a_vector_of_the_wrong_size_or_without_weight_is_a_mistake_of_the_caller() -> None:
    end = CompressedMean(torch.zeros(10), None)  # type: ignore[arg-type]
    for vector, weight in ((torch.zeros(9), 1.0), (torch.zeros(10), 0.0), (None, 1.0), (torch.zeros(10), -1.0)):
        with pytest.raises(ValueError, match="weight"):
            end.mean(vector, weight, step=0)


def test_ranks_that_hold_different_means_are_found_before_a_packet_is_sent(ranks: Ranks) -> None:
    ranks.start(CompressedMean, torch.zeros(10))
    ranks.ask({2: ("new", CompressedMean, torch.full((10,), 1e-7))})
    replies = ranks.try_mean([torch.ones(10)] * SENDERS + [None], [1.0] * SENDERS + [0.0])
    assert all(isinstance(reply, WireError) and "digest" in str(reply) for reply in replies)
    assert "rank 2, adapter averaging, round 0" in str(replies[0])


def test_averaging_goes_on_from_a_checkpoint_as_if_nothing_had_happened(ranks: Ranks) -> None:
    vectors, weights = normal(8, 6, SENDERS, 300), [[1.0, 2.0, 3.0]] * 3
    ranks.start(CompressedMean, torch.zeros(300))
    ranks.rounds(vectors[:3], weights)
    states = ranks.states()
    expected = ranks.rounds(vectors[3:], weights)
    ranks.start(CompressedMean, torch.zeros(300))
    ranks.ask({rank: ("load", state) for rank, state in enumerate(states)})
    assert ranks.rounds(vectors[3:], weights).equal(expected)
    with pytest.raises(UserError, match="300 elements, 5 expected"):
        CompressedMean(torch.zeros(5), None).load(states[0])  # type: ignore[arg-type]


def send(ranks: Ranks, vector: Tensor) -> tuple[Any, Any]:
    replies = ranks.ask({0: ("send", vector), 1: ("receive",)})
    return replies[0], replies[1]


def start_stream(ranks: Ranks, start: Tensor) -> None:
    ranks.ask({0: ("new", DeltaSender, start), 1: ("new", DeltaReceiver, start)})


def test_a_delta_stream_follows_its_vector_and_closes_in_on_one_that_rests(ranks: Ranks) -> None:
    start = normal(9, 1000)
    vector = start.clone()
    start_stream(ranks, start)
    for number in range(20):
        moved = vector + 0.01 * normal(10 + number, 1000)
        size, received = send(ranks, moved)
        assert size == 8 + packet_bytes(1000)
        reach = (moved - vector).abs().max() * 1.02  # what the last message left off comes on top
        assert (received - moved).abs().max() <= reach / 127 * (1 / 2 + 2**-7), "errors must not add up"
        vector = moved
    errors = [relative(send(ranks, vector)[1], vector) for _ in range(2)]
    assert errors[0] < 1e-6
    states = ranks.ask({0: ("state",), 1: ("state",)})
    assert states[0]["held"].equal(states[1]["held"])
    start_stream(ranks, torch.zeros(1000))
    ranks.ask({rank: ("load", state) for rank, state in states.items()})
    assert relative(send(ranks, vector)[1], vector) < 1e-6


def test_a_delta_stream_refuses_nan_and_ends_that_differ(ranks: Ranks) -> None:
    start_stream(ranks, torch.zeros(10))
    refusal = ranks.ask({0: ("send", torch.full((10,), math.nan))})[0]
    assert isinstance(refusal, UserError) and "round 0: the adapter of rank 0 holds NaN" in str(refusal)
    assert send(ranks, torch.ones(10))[1].allclose(torch.ones(10), atol=0.01), "nothing may have been sent"
    ranks.ask({1: ("new", DeltaReceiver, torch.full((10,), 1e-3))})
    error = send(ranks, torch.ones(10))[1]
    assert isinstance(error, WireError) and "rank 0, receiving adapters, round 0: checksum" in str(error)


def test_a_lost_rank_is_an_error_and_not_a_wait_for_ever(tmp_path: Path) -> None:
    with running(tmp_path, count=3, timeout=2.0) as few:
        few.start(CompressedMean, torch.zeros(10))
        few.processes[1].kill()
        few.processes[1].join()
        replies = few.ask({0: ("mean", torch.ones(10), 1.0), 2: ("mean", None, 0.0)})
        assert all(isinstance(reply, PeerLost) for reply in replies.values())
        assert "during adapter averaging, round 0" in str(replies[0])
