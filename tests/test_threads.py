"""Ranks that compute at the same time share the cores."""

import os
from pathlib import Path

import pytest
from conftest import run_command

from splitcom_dist import runner
from splitcom_dist.layout import Layout
from splitcom_dist.place import Place
from splitcom_dist.threads import BEHIND, fair_threads, niceness


@pytest.mark.parametrize(
    ("clients", "servers", "local", "of_client", "of_server"),
    [
        (1, 1, 3, 8, 8),  # they take turns
        (4, 1, 6, 2, 8),  # the server is what all wait for
        (4, 2, 7, 2, 4),
        (16, 1, 18, 1, 8),
        (4, 1, 1, 8, 8),  # every rank on a machine of its own
        (4, 2, 2, 4, 4),
    ],
)
def test_ranks_of_a_role_share_the_cores(
    clients: int, servers: int, local: int, of_client: int, of_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    layout = Layout(clients, servers, clients)
    size = layout.world_size
    places = {rank: Place(rank, size, "splitcom", rank % local, local) for rank in range(size)}
    assert fair_threads(places[0], layout) == of_client
    assert fair_threads(places[layout.first_server], layout) == of_server


@pytest.mark.parametrize(
    ("clients", "local", "of_client"),
    [
        (4, 6, BEHIND),
        (1, 3, 0),  # client and server take turns
        (4, 4, 0),  # the server is on another machine
        (4, 1, 0),
    ],
)
def test_clients_go_behind_the_server_beside_them(clients: int, local: int, of_client: int) -> None:
    layout = Layout(clients, 1, clients)
    size = layout.world_size
    found = [niceness(Place(rank, size, "splitcom", rank % local, local), layout) for rank in range(size)]
    assert found == [of_client] * clients + [0, 0]


def test_a_run_has_clients_behind_its_server(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """As the system has it, not as the rule above says."""

    def noting() -> None:
        prepare = runner.prepare_computing  # type: ignore[attr-defined]

        def prepared(threads: int, place: Place, layout: Layout) -> None:
            before = os.getpriority(os.PRIO_PROCESS, 0)
            prepare(threads, place, layout)
            (tmp_path / str(place.rank)).write_text(f"{os.getpriority(os.PRIO_PROCESS, 0) - before}")

        runner.prepare_computing = prepared  # type: ignore[attr-defined]

    model = ["model.name=" + str(model_folders["gpt2"]), "model.cut_layer=2", "lora.rank=2", "data.max_length=40"]
    small = ["data.train_samples=8", "data.validation_samples=2", "train.epochs=1", "telemetry.progress=false"]
    clients = ["roles.client_ranks=2", "fed.clients=2", "--out", str(tmp_path / "run")]
    outcome = run_command(["train", *model, *small, *clients], before=noting)
    assert outcome.code == 0, outcome.stderr
    assert [int((tmp_path / str(rank)).read_text()) for rank in range(4)] == [BEHIND, BEHIND, 0, 0]
