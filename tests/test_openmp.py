"""Workers that rest are gone, come back with the next operator, and compute what they computed before."""

import os
import subprocess
import sys

import pytest

from splitcom_dist.config.schema import RolesConfig
from splitcom_dist.openmp import choose_spins
from splitcom_dist.place import Place

SCRIPT = """
import os, torch
from splitcom_dist.openmp import rest_workers

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
values = torch.randn(64, 40_000, generator=torch.Generator().manual_seed(0))
before = threads()
first = values.exp().sum(dim=0)
working = threads()
rested = rest_workers()
resting = threads()
second = values.exp().sum(dim=0)
print(int(rested), working - before, resting - before, threads() - before, int(first.equal(second)))
"""


def test_workers_rest_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    rested, working, resting, again, same = map(int, done.stdout.split())
    if not rested:
        pytest.skip("no libgomp whose workers can be ended")
    assert (working, resting, again) == (2, 0, 2) and same


@pytest.mark.parametrize(
    ("roles", "local_ranks", "expected"),
    [
        (RolesConfig(client_ranks=1), None, "100000"),
        (RolesConfig(client_ranks=1), 3, "100000"),
        (RolesConfig(client_ranks=4), None, "10000"),
        (RolesConfig(client_ranks=4), 2, "10000"),
        (RolesConfig(client_ranks=4), 1, "100000"),
        (RolesConfig(client_ranks=4, server_batching="merged"), 2, "100000"),
        (RolesConfig(client_ranks=4, server_batching="arrival"), 2, "10000"),
    ],
)
def test_workers_spin_long_where_nobody_else_computes_meanwhile(
    roles: RolesConfig, local_ranks: int | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    choose_spins(roles, Place(0, 6, "torchrun", 0, local_ranks) if local_ranks else None)
    assert os.environ["GOMP_SPINCOUNT"] == expected
    choose_spins(RolesConfig(client_ranks=5 - roles.client_ranks), None)
    assert os.environ["GOMP_SPINCOUNT"] == expected, "what is set stays"
