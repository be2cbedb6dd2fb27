"""Ranks that are missing, doubled, lost or cut off are named by rank 0, in time, and none of the others hangs."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from conftest import Outcome, run_command

from splitcom_dist.comm.speed import Pair, measure
from splitcom_dist.doctor import consultation, matches
from splitcom_dist.errors import UserError
from splitcom_dist.place import Place

TIMEOUT = 6


def consult(
    *ranks: int,
    world_size: int,
    patches: Mapping[int, Callable[[], None]] | None = None,
    more: Mapping[str, str] | None = None,
    port: int | None = None,
) -> list[Outcome]:
    """The outcomes of `splitcom doctor` as these ranks of a launch, started by hand on a free port."""
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

    def start(rank: int) -> Outcome:
        launched = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1"}
        environment = launched | {"MASTER_PORT": str(port)} | dict(more or {})
        arguments = ["doctor", "--timeout", str(TIMEOUT)]
        return run_command(arguments, 6 * TIMEOUT, environment, (patches or {}).get(rank))

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(start, ranks))


def problems(outcome: Outcome) -> list[str]:
    lines = outcome.stdout.splitlines()
    return [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]


def test_ranks_that_come_are_well() -> None:
    outcomes = consult(0, 1, 2, world_size=3)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert "all is well" in outcomes[0].stdout and outcomes[0].stdout.count(" – ") == 3  # noqa: RUF001
    assert outcomes[1].stdout == outcomes[2].stdout == ""


@pytest.mark.long
def test_ranks_that_do_not_come_are_named_in_time() -> None:
    started = time.monotonic()
    first, third = consult(0, 2, world_size=4)
    assert time.monotonic() - started < TIMEOUT + 15
    assert first.code == third.code == 1
    named = [line.split(f" has not come within {TIMEOUT} s")[0] for line in problems(first)]
    assert named == ["rank 1", "rank 3"]
    assert third.stdout == ""


@pytest.mark.long
def test_rank_0_is_named_by_another_where_it_does_not_come() -> None:
    (outcome,) = consult(1, world_size=2)
    assert outcome.code == 1
    assert "rank 0 has not come to 127.0.0.1:" in problems(outcome)[0]


def test_two_processes_that_claim_one_rank_are_named() -> None:
    """By the second of them; and by rank 0, if both were there when it called the roll. Rank 2 comes last,
    as without it all may have gone before the second begins."""
    outcomes = consult(0, 1, 1, 2, world_size=3, patches={2: lambda: time.sleep(TIMEOUT / 2)})
    named = [line for outcome in outcomes[1:3] for line in problems(outcome)]
    assert named == ["this process and another both claim to be rank 1: give each its own RANK"]
    assert 1 in (outcomes[1].code, outcomes[2].code)
    assert problems(outcomes[0]) in ([], ["2 processes claim to be rank 1: give each its own RANK"])


def test_two_ranks_that_claim_one_local_rank_are_named() -> None:
    outcomes = consult(0, 1, world_size=2, more={"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert [outcome.code for outcome in outcomes] == [1, 1]
    (line,) = problems(outcomes[0])
    assert "ranks 0 and 1 on" in line and "all claim local rank 0: start every host's ranks" in line


def at_the_second_match(act: Callable[[], None]) -> Callable[[], None]:
    """A patch under which a rank does `act` when it comes to its second match."""

    def patch() -> None:
        played = []

        def acting(*arguments: object) -> Pair | None:
            played.append(True)
            if len(played) == 2:
                act()
            return measure(*arguments)  # type: ignore[arg-type]

        mock.patch("splitcom_dist.doctor.matches.measure", acting).start()

    return patch


@pytest.mark.long
@pytest.mark.parametrize("act", [lambda: time.sleep(3600), lambda: os._exit(7)], ids=["silent", "gone"])
def test_a_rank_that_is_lost_while_others_measure_is_named(act: Callable[[], None]) -> None:
    outcomes = consult(0, 1, 2, 3, world_size=4, patches={2: at_the_second_match(act)})
    assert [outcomes[rank].code for rank in (0, 1, 3)] == [1, 1, 1], outcomes
    assert problems(outcomes[0]) == ["rank 2 left or fell silent while others measured with it: see its host"]


def test_a_working_directory_that_is_not_shared_is_named(tmp_path: Path) -> None:
    def elsewhere() -> None:
        exists = Path.exists
        consultation.Path.exists = lambda path: ".splitcom-doctor-" not in path.name and exists(path)  # type: ignore

    outcomes = consult(0, 1, world_size=2, patches={1: elsewhere})
    assert [outcome.code for outcome in outcomes] == [1, 1]
    assert "is not shared with ranks 1: start in" in problems(outcomes[0])[0]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        (outcome,) = consult(0, world_size=2, port=taken.getsockname()[1])
    assert outcome.code == 1
    assert "cannot open 127.0.0.1:" in problems(outcome)[0] and "export MASTER_PORT" in problems(outcome)[0]


def pair(first: int, second: int, offset: float = 0.0) -> Pair:
    return Pair(first, second, 1e-4, 1e9, 1e9, offset, 1e-5)


def test_a_cut_between_two_blames_neither() -> None:
    results = {0: matches.Matches([pair(0, 1)]), 1: matches.Matches(lost=2), 2: matches.Matches(lost=1)}
    (line,) = matches.problems(results, 3, "gloo")
    assert "ranks 1 and 2 do not hear each other over gloo" in line and "GLOO_SOCKET_IFNAME" in line


def test_a_rank_whose_failure_stopped_the_others_is_not_blamed_twice() -> None:
    results = {0: matches.Matches(lost=1), 1: matches.Matches(failure="mpi4py is not installed: pip install it")}
    assert matches.problems(results, 2, "mpi") == ["mpi: mpi4py is not installed: pip install it"]


def test_results_travel_unchanged() -> None:
    result = matches.Matches([pair(0, 1)], lost=2)
    assert matches.from_values(result.to_values()) == result


def test_a_channel_that_cannot_open_is_a_failure_with_its_reason() -> None:
    def open_channel() -> None:
        raise UserError("mpi4py is not installed: pip install 'splitcom-dist[mpi]'")

    place = Place(0, 2, "torchrun", 0, 2)
    result = matches.play(place, open_channel, lambda: None)  # type: ignore[arg-type]
    assert "mpi4py is not installed" in result.failure
