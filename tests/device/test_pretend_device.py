"""A step on a device without values: nothing there meets a tensor of the host, and the host waits where it is known to.

This is as near to a GPU as a machine without one comes: devices and shapes are checked, values and NCCL are not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
Visits = list[dict[str, dict[str, list[str]]]]

ROWS = ["roles/flows/outgoing.py _where_it_encodes"]  # to a codec on the host
PACKET = ["codec/gated/ends.py _crossing"]  # scales and symbols to a transport on the host
CHECK = ["codec/checksum.py checksum"]  # of a payload that stays on its device: 8 bytes
MARKS = ["codec/checksum.py row_checksums"]  # of its samples, where both ends keep references
GATE = ["codec/gated/gate.py compare"]
GAINS = ["codec/gated/modes.py pack_modes"]
LOSS = ["roles/body.py forward_backward"]

# By case, of a first visit and of one that is skipped: client up, server (in, loss, gradient down), client down.
STANDARD = {
    "gpt2:none:gloo:0": ((PACKET, LOSS + PACKET, []),) * 2,
    "gpt2:none:nccl:0": ((CHECK, CHECK + LOSS + CHECK, CHECK),) * 2,
    "qwen2:fp16:gloo:0": ((PACKET, LOSS + PACKET, []),) * 2,
    "gpt_neox:int8:nccl:0": ((CHECK, CHECK + LOSS + CHECK, CHECK),) * 2,
    "llama_tied:splitcom_int8:gloo:0": ((GATE + PACKET, LOSS + PACKET, []),) * 2,
    "gpt2:splitcom:nccl:0": (
        (GATE + MARKS + CHECK, CHECK + MARKS + LOSS + CHECK, CHECK),
        (GATE, LOSS + CHECK, CHECK),
    ),
    "gpt2:video:gloo:0": ((ROWS, LOSS + ROWS, []),) * 2,
    "llama:aqsgd:gloo:0": ((ROWS, LOSS + ROWS, []),) * 2,
    "gpt2:tah:gloo:0": ((ROWS, LOSS + ROWS, []),) * 2,
}
# Up; down; up; down, each at its sender.
U_SHAPE = {
    "llama_tied:int8:nccl:1": (CHECK, CHECK, CHECK, CHECK),
    "opt:splitcom_rescaled:nccl:1": (
        GATE + MARKS + CHECK,
        GATE + MARKS + CHECK,
        GATE + MARKS + GAINS + CHECK,
        GATE + MARKS + GAINS + CHECK,
    ),
    "mistral:video:gloo:1": (ROWS, ROWS, ROWS, ROWS),
}


@pytest.fixture(scope="module")
def played() -> dict[str, Visits]:
    """Every case, in one process: the device must not be known to this one, which forks the ranks of other tests."""
    folders = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "device")))
    script, cases = str(TESTS / "device" / "pretend_step.py"), [*STANDARD, *U_SHAPE]
    outcome = subprocess.run(
        [sys.executable, script, *cases],
        env=os.environ | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    told: dict[str, Visits] = json.loads(outcome.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("case", STANDARD)
def test_the_host_waits_for_the_device_only_where_a_packet_needs_it(case: str, played: dict[str, Visits]) -> None:
    for visit, expected in zip(played[case], STANDARD[case], strict=True):
        assert tuple(visit[phase]["waits"] for phase in ("up", "body", "down")) == expected


@pytest.mark.parametrize("case", U_SHAPE)
def test_so_it_does_on_the_four_links_of_the_u_shape(case: str, played: dict[str, Visits]) -> None:
    first = played[case][0]
    up, down, back_up, back_down = U_SHAPE[case]
    assert first["up"]["waits"] == up and first["up_gradient"]["waits"] == back_up
    assert (
        first["body"]["waits"][-len(down) :] == down and first["body backward"]["waits"][-len(back_down) :] == back_down
    )


@pytest.mark.parametrize("case", [*STANDARD, *U_SHAPE])
def test_computing_and_stepping_never_wait(case: str, played: dict[str, Visits]) -> None:
    for visit in played[case]:
        for phase in ("batch", "head", "backward", "client step", "server step", "mean back"):
            assert visit[phase]["waits"] == [], phase
        assert visit["averaging"]["waits"] == ["models/lora.py flatten"], "adapters go to the host as one vector"
        assert visit["mean back"]["uploads"] == ["models/lora.py unflatten_into"], "and come back as one"
        assert visit["batch"]["uploads"] == ["data/batching.py collate"]
