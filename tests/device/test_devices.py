"""Which device a rank takes, and what is said where there is none, or not one for each end."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from conftest import run_command

from splitcom_dist import devices
from splitcom_dist.comm.nccl_p2p import check_devices
from splitcom_dist.config.files import load_config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import Layout


def seen(monkeypatch: pytest.MonkeyPatch, count: int, bad_fork: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: bad_fork)


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_local_ranks_take_the_devices_in_turn(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, 2)
    assert [str(devices.device_for(wanted, rank)) for rank in range(5)] == ["cuda:0", "cuda:1"] * 2 + ["cuda:0"]
    assert devices.sharing(torch.device("cuda:0"), 0, 5) == [2, 4]
    assert devices.sharing(torch.device("cuda:1"), 3, 5) == [1]
    assert devices.sharing(torch.device("cuda:1"), 1, 2) == []


def test_without_a_device_auto_is_the_cpu_and_cuda_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, 0)
    assert devices.device_for("auto", 1) == torch.device("cpu") and devices.sharing(torch.device("cpu"), 1, 4) == []
    assert devices.planned("cuda", 1) == "cuda, none here"
    with pytest.raises(
        UserError, match=r"runtime.device=cuda: .* sees no CUDA device on .*set runtime.device=auto or cpu"
    ):
        devices.device_for("cuda", 1)


def test_the_cpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, 2)
    assert devices.device_for("cpu", 1) == torch.device("cpu")


def test_a_fork_that_cannot_use_cuda_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, 1, bad_fork=True)
    with pytest.raises(UserError, match=r"start them with torchrun \(launch/torchrun.sh\), or set runtime.device=cpu"):
        devices.device_for("auto", 0)


def test_the_state_of_the_hosts_generator_comes_back() -> None:
    states = devices.random_states()
    drawn = torch.rand(3)
    devices.restore_random_states({**states, "rng_device": torch.zeros(16, dtype=torch.uint8)})
    assert torch.rand(3).equal(drawn), "and what a device's was is no harm here"


def test_nccl_needs_a_device_at_both_ends_of_every_edge() -> None:
    layout = Layout(2, 1, 2)  # clients 0 and 1, server 2, aggregator 3
    check_devices(layout, {0: "a 1", 1: "a 2", 2: "a 3", 3: ""})
    check_devices(layout, {0: "a 1", 1: "a 1", 2: "a 3", 3: "a 3"})  # between these nothing is sent
    with pytest.raises(
        UserError, match=r"no CUDA device, or no NCCL in torch, on rank 1 \(client 1\), rank 2 \(server\): "
    ):
        check_devices(layout, {0: "a 1", 1: "", 2: "", 3: "a 3"})
    shared = r"rank 1 \(client 1\) and rank 2 \(server\) share one device \(a 3\).* set transport=tcp"
    with pytest.raises(UserError, match=shared):
        check_devices(layout, {0: "a 1", 1: "a 3", 2: "a 3", 3: ""})


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        (["runtime.device=cpu"], r"transport=nccl: with runtime.device=cpu .*runtime.device=cuda or transport=tcp"),
        (
            ["codec=video"],
            r"transport=nccl: codec video makes all its packets in host memory; set transport=tcp or mpi",
        ),
        (["codec=tah"], "transport=nccl: codec tah makes all"),
        (["runtime.link.delay_ms=5"], "runtime.link: .*set transport=tcp"),
    ],
)
def test_what_nccl_cannot_carry_is_refused_with_the_mend(settings: list[str], mend: str) -> None:
    with pytest.raises(UserError, match=mend):
        load_config([], ["transport=nccl", *settings])
    load_config([], ["transport=nccl", "codec=splitcom_int8"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("transport=nccl", "error: transport=nccl: no CUDA device, or no NCCL in torch, on rank 0 (client 0), "),
        ("runtime.device=cuda", "error: runtime.device=cuda: torch "),
    ],
)
def test_a_run_that_needs_a_device_ends_with_one_line(
    setting: str, said: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_command(["train", f"model.name={model_folders['gpt2']}", setting, "--out", str(tmp_path / "run")])
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("[W")]
    assert outcome.code == 2 and len(lines) == 1 and lines[0].startswith(said), outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_device_of_every_rank(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(monkeypatch, 2)
    outcome = run_command(["train", "--dry-run", f"model.name={model_folders['gpt2']}"])
    assert outcome.code == 0, outcome.stderr
    rows = [line.split() for line in outcome.stdout.splitlines() if line.startswith("rank ")]
    shown = [
        next(word for word in row if word.startswith("c") and ":" in word) for row in rows if "cuda" in " ".join(row)
    ]
    assert shown == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


class Stream:
    """Stands in for one of a device: what it is told is noted."""

    told: ClassVar[list[str]] = []

    def __init__(self, device: object = None) -> None:
        pass

    def __enter__(self) -> None:
        self.told.append("enter")

    def __exit__(self, *_: object) -> None:
        self.told.append("leave")

    def wait_event(self, event: str) -> None:
        self.told.append(f"wait for {event}")

    def synchronize(self) -> None:
        self.told.append("synchronize")


def test_a_lane_begins_behind_what_was_given_and_ends_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "told", [])
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(record_event=lambda: "all so far"))
    act = devices.Lane(torch.device("cuda", 0)).aside(lambda: Stream.told.append("act"))
    assert Stream.told == [], "the thread is yet to come"
    act()
    assert Stream.told == ["enter", "wait for all so far", "act", "synchronize", "leave"]


def test_on_the_cpu_nothing_is_pinned_and_a_thread_is_all() -> None:
    assert not devices.staging(3, devices.HOST).is_pinned()
    tensor = torch.ones(3)
    assert devices.to_host(tensor) is tensor and devices.to_device(tensor, devices.HOST) is tensor

    def act() -> None: ...

    assert devices.Lane(devices.HOST).aside(act) is act
