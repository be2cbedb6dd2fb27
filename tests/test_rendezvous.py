"""Where ranks meet: what is exported wins, Slurm's node list is read, MPI is asked, and a mend is named otherwise."""

import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist import rendezvous
from splitcom_dist.comm import mpi_world
from splitcom_dist.errors import UserError
from splitcom_dist.hostlist import expand
from splitcom_dist.place import Place
from splitcom_dist.rendezvous import Rendezvous, find_rendezvous, slurm_port

STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "localhost,node[02-03]",
    "SLURM_JOB_NODELIST": "other[1-4]",
}


def place(launcher: str, rank: int = 1, local_world_size: int = 2) -> Place:
    return Place(rank, 4, launcher, rank % local_world_size, local_world_size)


@pytest.mark.parametrize(
    ("hostlist", "hosts"),
    [
        ("n1", ["n1"]),
        ("n1,n2", ["n1", "n2"]),
        ("node[01-03,7]", ["node01", "node02", "node03", "node7"]),
        ("node[01-03,7],gpu-a[1-2]-x", ["node01", "node02", "node03", "node7", "gpu-a1-x", "gpu-a2-x"]),
        ("node[098-101]", ["node098", "node099", "node100", "node101"]),
        ("r[1-2]n[08,10]", ["r1n08", "r1n10", "r2n08", "r2n10"]),
        ("a.b-c[3]", ["a.b-c3"]),
    ],
)
def test_host_lists_as_slurm_writes_them(hostlist: str, hosts: list[str]) -> None:
    assert list(expand(hostlist)) == hosts


@pytest.mark.parametrize("hostlist", ["", ",n1", "n1,", "n[1-2", "n]1[", "n[a-b]", "n[]", "n[1-2]]", "n1,,n2"])
def test_what_is_no_host_list_is_refused(hostlist: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        list(expand(hostlist))


@given(st.integers(0, 10**8), st.integers(0, 50))
def test_the_port_stays_in_the_documented_range(job: int, step: int) -> None:
    port = slurm_port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
    assert 20000 <= port <= 29999


def test_steps_and_neighbouring_jobs_get_ports_of_their_own() -> None:
    pairs = [{"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)} for job in range(900, 1500) for step in range(16)]
    assert len({slurm_port(pair) for pair in pairs}) == len(pairs)


def test_slurm_ranks_meet_at_the_steps_first_host_not_the_jobs() -> None:
    assert find_rendezvous(place("srun"), STEP, 5) == Rendezvous("localhost", 20000 + 71 * 16 + 2)


def test_a_step_on_one_node_needs_no_name_service() -> None:
    environment = STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "no-such-host"}
    assert find_rendezvous(place("srun"), environment, 5).address == "127.0.0.1"


@pytest.mark.parametrize("launcher", ["torchrun", "srun", "mpirun (Open MPI)", "mpiexec (PMI)", "MPI"])
def test_what_is_exported_wins(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_world, "join", lambda _: pytest.fail("MPI must not be asked"))
    environment = STEP | {"MASTER_ADDR": "head", "MASTER_PORT": "1234"}
    assert find_rendezvous(place(launcher), environment, 5) == Rendezvous("head", 1234)


def test_each_of_the_two_wins_for_itself() -> None:
    assert find_rendezvous(place("srun"), STEP | {"MASTER_PORT": "1234"}, 5) == Rendezvous("localhost", 1234)
    assert find_rendezvous(place("srun"), STEP | {"MASTER_ADDR": "head"}, 5) == Rendezvous("head", slurm_port(STEP))


@pytest.mark.parametrize(
    ("launcher", "rank", "environment", "parts"),
    [
        ("torchrun", 0, {"MASTER_ADDR": "head"}, ["torchrun gave no MASTER_PORT", "export"]),
        ("torchrun", 0, {"MASTER_ADDR": "head", "MASTER_PORT": "http"}, ["MASTER_PORT='http'"]),
        ("torchrun", 0, {"MASTER_ADDR": "head", "MASTER_PORT": "70000"}, ["MASTER_PORT='70000'"]),
        ("srun", 1, STEP | {"SLURM_STEP_NODELIST": "node[1-"}, ["SLURM_STEP_NODELIST", "MASTER_ADDR"]),
        ("srun", 0, STEP | {"SLURMD_NODENAME": "node02"}, ["rank 0 is on node02, not on localhost", "MASTER_ADDR"]),
    ],
)
def test_a_launch_without_a_meeting_place_is_told_the_mend(
    launcher: str, rank: int, environment: dict[str, str], parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        find_rendezvous(place(launcher, rank), environment, 5)
    assert all(part in str(caught.value) for part in parts), caught.value


SCONTROL = """#!/bin/sh
[ "$*" = "show node no-such-host.invalid" ] && echo "NodeName=n1 Arch=x86_64
   NodeAddr=10.1.2.3 NodeHostName=vm Port=27002"
"""


def test_slurm_is_asked_for_an_address_that_no_name_service_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = STEP | {"SLURM_STEP_NODELIST": "no-such-host.invalid,n2"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no-such-host.invalid.*cannot be resolved.*MASTER_ADDR"):
        find_rendezvous(place("srun"), environment, 5)
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    assert find_rendezvous(place("srun"), environment, 5).address == "10.1.2.3"
    with pytest.raises(UserError, match="neither name service nor scontrol"):
        find_rendezvous(place("srun"), environment | {"SLURM_STEP_NODELIST": "another.invalid"}, 5)


class Broadcasting(mpi_world.MpiWorld):
    """Rank 0's own text comes back to it."""

    def broadcast(self, text: str, timeout_seconds: float) -> str:
        return text


@pytest.mark.parametrize(("local_world_size", "address"), [(4, "127.0.0.1"), (2, "10.0.0.7")])
def test_rank_0_of_mpirun_opens_a_port_before_it_tells_it(
    local_world_size: int, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Broadcasting(None, (0, 4, 0, local_world_size))  # type: ignore[arg-type]
    monkeypatch.setattr(mpi_world, "join", lambda _: world)
    monkeypatch.setattr(rendezvous, "own_address", lambda: "10.0.0.7")
    found = find_rendezvous(place("mpirun (Open MPI)", 0, local_world_size), {}, 5)
    assert found.address == address and found.listener is not None
    with found.listener, socket.create_connection(("127.0.0.1", found.port), timeout=5):
        pass


def test_mpirun_without_mpi4py_names_both_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UserError, match=r"mpi4py is not installed: pip install.*export MASTER_ADDR"):
        find_rendezvous(place("mpirun (Open MPI)"), {}, 5)


def test_another_mpi_library_than_the_launchers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = mpi_world.MpiWorld(None, (0, 1, 0, 1))  # type: ignore[arg-type]
    monkeypatch.setattr(mpi_world, "join", lambda _: alone)
    with pytest.raises(UserError, match=r"mpi4py sees rank 0 of 1, the launcher said 1 of 4"):
        find_rendezvous(place("mpiexec (PMI)"), {}, 5)


def test_this_hosts_own_address_is_one_that_others_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.9")
    assert rendezvous.own_address() == "10.0.0.9"
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: self.bind(("127.0.0.2", 0)))
    assert rendezvous.own_address() == "127.0.0.2", "where packets to others would leave"
