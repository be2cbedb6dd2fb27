"""Every problem that ranks can see is named with who has it and the mend; what is no problem is not."""

import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from conftest import run_command

from splitcom_dist.comm.speed import Pair
from splitcom_dist.doctor.machine import Folder, Host, see_folder, see_host
from splitcom_dist.doctor.problems import of_clocks, of_sights
from splitcom_dist.doctor.sight import Sight, from_json, look
from splitcom_dist.place import Place


def sight(rank: int, host: str = "a", local_rank: int | None = None, address: str = "10.0.0.1") -> Sight:
    place = Place(rank, 2, "srun", rank if local_rank is None else local_rank, 2)
    folder = Folder("/shared", "nfs4", True, 10**12, "")
    return Sight(
        place, Host(host, host, [address], 2, 4, 2**34, 2**33, []), folder, {"torch": "2.13"}, ["gloo"], "", "", {}
    )


def two_hosts(address: str = "10.0.0.1") -> dict[int, Sight]:
    return {0: sight(0, "a", 0), 1: sight(1, "b", 0, address)}


def full(found: Sight, **changes: object) -> Sight:
    return replace(found, folder=replace(found.folder, **changes))  # type: ignore[arg-type]


PROBLEMS: dict[str, tuple[dict[int, Sight], list[str]]] = {
    "one host": ({0: sight(0), 1: sight(1)}, []),
    "two hosts": (two_hosts(), []),
    "one local rank twice": (
        {0: sight(0), 1: sight(1, local_rank=0)},
        ["ranks 0 and 1 on a", "local rank 0", "LOCAL_RANK"],
    ),
    "a local rank that counts other hosts' ranks": (
        {0: sight(0, "a"), 1: sight(1, "b")},
        ["rank 1 claims local rank 1", "b has 1", "export LOCAL_RANK"],
    ),
    "versions": (
        {0: sight(0), 1: replace(sight(1), versions={"torch": "2.12"})},
        ["torch differs", "2.13 on rank 0; 2.12 on rank 1", "one environment"],
    ),
    "a package that one lacks": ({0: sight(0), 1: replace(sight(1), versions={})}, ["not installed on rank 1"]),
    "a host that resolves to itself": (two_hosts("127.0.1.1"), ["b resolves to 127.0.1.1", "GLOO_SOCKET_IFNAME"]),
    "no space": ({0: full(sight(0), free_bytes=5_000_000)}, ["/shared on a has 5 MB left", "--out"]),
    "not writable": ({0: full(sight(0), writable=False)}, ["/shared on a cannot be written", "--out"]),
    "no locks": ({0: full(sight(0), no_lock="errno 38")}, ["nfs4", "errno 38", "HDF5_USE_FILE_LOCKING"]),
}


@pytest.mark.parametrize(("sights", "parts"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_each_problem_is_one_line(sights: dict[int, Sight], parts: list[str]) -> None:
    found = of_sights(sights)
    assert len(found) == bool(parts), found
    for part in parts:
        assert part in found[0]


def test_a_host_that_resolves_to_itself_is_none_where_the_interface_is_named_or_alone() -> None:
    sights = two_hosts("127.0.1.1")
    sights[1] = replace(sights[1], variables={"GLOO_SOCKET_IFNAME": "eth0"})
    assert of_sights(sights) == []
    assert of_sights({0: sight(0, address="127.0.1.1"), 1: sight(1, address="127.0.1.1")}) == []


@pytest.mark.parametrize(
    ("offset", "error", "named"), [(90.0, 0.1, True), (-1.5, 0.1, True), (1.5, 0.8, False), (0.2, 0, False)]
)
def test_clocks_apart_are_named_beyond_what_the_measurement_may_err(offset: float, error: float, named: bool) -> None:
    found = list(of_clocks([Pair(0, 1, 1e-4, 1e9, 1e9, offset, error), Pair(1, 2, 1e-4, 1e9, 1e9, 50.0, 0)]))
    assert bool(found) == named
    if named:
        assert f"rank 1 is {offset:+.1f} s" in found[0] and "NTP" in found[0]


def test_a_sight_travels_unchanged() -> None:
    for place in (None, Place(1, 3, "srun", 0, 1)):
        found = look(place, {"SLURM_JOB_ID": "5", "GLOO_SOCKET_IFNAME": "eth0", "SECRET": "1"})
        assert from_json(found.to_json()) == found
        assert found.variables == {"GLOO_SOCKET_IFNAME": "eth0", "SLURM_JOB_ID": "5"}


def test_the_folders_locks_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = see_folder(tmp_path)
    assert found.writable and found.no_lock == "" and found.free_bytes > 0
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *arguments, locking: original(*arguments, locking=False))
    assert "does not keep others out" in see_folder(tmp_path).no_lock


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert not see_folder(tmp_path).writable


def test_slurms_name_of_a_node_is_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert see_host({"SLURMD_NODENAME": "n1"}).name == "n1"
    assert see_host({}).name == socket.gethostname()


def test_doctor_alone_prints_what_it_sees() -> None:
    outcome = run_command(["doctor"])
    assert outcome.code == 0, outcome.stdout
    for text in ("launcher", "none: `splitcom train` starts all ranks", "backends gloo", "MPI", "Slurm", "all is well"):
        assert text in outcome.stdout


def test_a_timeout_without_sense_is_a_mistake() -> None:
    outcome = run_command(["doctor", "--timeout", "0"])
    assert outcome.code == 2 and outcome.stderr == "error: --timeout=0: must be above 0 seconds\n"
