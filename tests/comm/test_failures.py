"""The rank that made everyone wait is found through those that only wait because of it."""

import pytest

from splitcom_dist.comm.failures import culprits, naming
from splitcom_dist.errors import PeerLost


@pytest.mark.parametrize(
    ("waiting", "blamed"),
    [
        ({2: [0]}, {0}),  # the server waits for a client that is gone
        ({2: [0], 0: [0, 1, 3], 1: [0, 1, 3]}, {3}),  # which waits for an aggregator that is gone
        ({2: [0], 0: [0, 1, 3], 3: [0, 1]}, {1}),  # all wait for the other client
        ({2: [0], 0: [2]}, set()),  # two wait for each other
        ({2: []}, set()),
    ],
)
def test_blame_goes_to_whom_everyone_waits_for_in_the_end(waiting: dict[int, list[int]], blamed: set[int]) -> None:
    assert culprits(2, waiting) == blamed


@pytest.mark.parametrize(("text", "reason"), [("Timed out waiting", "was silent"), ("Connection closed", "is gone")])
def test_backend_errors_become_peer_lost(text: str, reason: str) -> None:
    with pytest.raises(PeerLost, match=f"rank 7 {reason}.*during a test") as caught, naming("rank 7", [7], "a test"):
        raise RuntimeError(text)
    assert caught.value.ranks == (7,)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), naming("rank 7", [7], "a test"):
        raise ValueError("mine")
