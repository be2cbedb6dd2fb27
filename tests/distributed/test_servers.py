"""Several servers are one server: the same adapters, the same bits on each, honest books, and none waits for ever."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import test_mistakes
import torch
from conftest import run_command
from safetensors.torch import load_file, save_file
from test_exactness import assert_same_run, settings
from test_runs import check_books, train

from splitcom_dist.config.files import load_config
from splitcom_dist.links import LINKS
from splitcom_dist.models.lora import flatten
from splitcom_dist.roles.server import ServerRole
from splitcom_dist.telemetry.hdf5 import read


def keep_adapters(folder: Path) -> Callable[[], None]:
    """Let every server write its adapter into `folder` when it has run."""

    def patch() -> None:
        original = ServerRole.run

        def run(self: ServerRole) -> None:
            original(self)
            save_file({"adapter": flatten(self.parameters)}, folder / f"server_{self.context.world.rank}.safetensors")

        ServerRole.run = run  # type: ignore[method-assign]

    return patch


def run_servers(servers: int, overrides: list[str], folder: Path) -> Path:
    """Train with so many servers, see that all end with the same bits, and return the run directory."""
    folder.mkdir()
    arguments = ["train", *overrides, f"roles.server_ranks={servers}", "--out", str(folder / "run")]
    outcome = run_command(arguments, before=keep_adapters(folder))
    assert outcome.code == 0, outcome.stderr
    first, *others = (load_file(file)["adapter"] for file in folder.glob("server_*.safetensors"))
    assert len(others) == servers - 1 and all(torch.equal(first, other) for other in others)
    return folder / "run"


def assert_same_adapters(run: Path, other: Path) -> None:
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (run, other)]
    found, expected = (load_file(file) for file in files)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (found[name] - tensor).norm() / tensor.norm()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("tail", [0, 1], ids=["standard", "u_shape"])
@pytest.mark.parametrize(
    ("family", "clients", "optimizer"), [("gpt2", 3, "sgd"), pytest.param("llama", 4, "adamw", marks=pytest.mark.long)]
)
def test_two_servers_equal_one_and_one_process(
    family: str, clients: int, optimizer: str, tail: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """For AdamW one server is the oracle: to average clients after adaptive steps is not what one process does."""
    overrides = settings(model_folders[family], clients, 1, optimizer, tail)
    runs = [run_servers(servers, overrides, tmp_path / str(servers)) for servers in (1, 2)]
    assert_same_adapters(*runs)
    if optimizer == "sgd":
        assert_same_run(runs[1], load_config([], overrides))


def test_two_servers_step_adamw_as_one_process_does_where_heads_are_frozen(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    exact = ["codec=frozen", "codec.up_activation.quantizer=none", "codec.up_activation.store_dtype=float32"]
    overrides = [*settings(model_folders["llama"], 3, 1, "adamw"), *exact]
    assert_same_run(run_servers(2, overrides, tmp_path / "two"), load_config([], overrides))


def test_a_server_that_serves_nobody_in_a_step_takes_it_with_the_others(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Shards of 13, 13 and 12 samples: the third client, alone on its server, has three batches where others have four.

    At a constant rate: a client's schedule counts its own steps, that of one process counts all.
    """
    overrides = [*settings(model_folders["llama"], 3, 1, "sgd"), "data.train_samples=38", "train.epochs=5"]
    overrides += ["train.schedule=constant", "train.lr=0.1"]
    run = run_servers(3, overrides, tmp_path / "three")
    assert_same_run(run, load_config([], overrides))
    rows = read(run / "telemetry" / "rank_00005.h5", "gradients")
    assert rows["clients"].tolist() == [1, 1, 1, 0] * 5 and (rows["targets"] > 0).all()
    again = run_servers(3, overrides, tmp_path / "again")
    saved = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, again)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0]), "the order of the sum is fixed"


def test_the_gradient_is_clipped_once_it_is_that_of_all_servers(model_folders: dict[str, Path], tmp_path: Path) -> None:
    overrides = [*settings(model_folders["gpt2"], 3, 2, "sgd"), "train.max_grad_norm=0.05", "train.epochs=1"]
    assert_same_adapters(*(run_servers(servers, overrides, tmp_path / str(servers)) for servers in (1, 2)))


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ["codec=none"],
        ["codec=video", "shape=u_shape", "fed.adapter_quantizer=int8"],
        ["codec=video", "rest.policy=every_k", "rest.every=2"],
        ["codec=splitcom_all", "control.name=bang_bang", "shape=u_shape"],
    ],
    ids="_".join,
)
def test_the_books_of_two_servers_are_honest(
    overrides: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcome = train(model_folders["llama"], tmp_path / "run", "roles.server_ranks=2", *overrides)
    assert outcome.code == 0, outcome.stderr
    run, u_shape = tmp_path / "run" / "run.h5", "shape=u_shape" in overrides
    summary = check_books(tmp_path / "run", int(u_shape), int8="fed.adapter_quantizer=int8" in overrides)
    assert summary["ppl"] < summary["untuned_ppl"]
    rows, together = read(run, "gradients"), read(run, "train")
    together = together[together["client"] == -1]
    assert len(rows) == 2 * len(together) and len(set(rows["bytes"])) == 1
    for row in together:
        targets = rows[rows["step"] == row["step"]]["targets"]
        assert targets.tolist() == [row["target_tokens"]] * 2
    if "rest.policy=every_k" in overrides:
        traffic = read(run, "traffic")
        ups = traffic[(traffic["side"] == 0) & (traffic["link"] == LINKS.index("up_activation"))]
        assert [bool(ups[ups["epoch"] == epoch]["wire"].any()) for epoch in range(3)] == [True, False, True]


@pytest.mark.long
def test_two_servers_send_what_one_would_and_their_gradients(model_folders: dict[str, Path], tmp_path: Path) -> None:
    summaries = []
    for servers in (1, 2):
        outcome = train(model_folders["gpt2"], tmp_path / str(servers), f"roles.server_ranks={servers}")
        assert outcome.code == 0, outcome.stderr
        summaries.append(json.loads((tmp_path / str(servers) / "summary.json").read_text()))
    assert summaries[0]["links"] == summaries[1]["links"]
    gradients = read(tmp_path / "2" / "run.h5", "gradients")["bytes"].sum()
    assert summaries[1]["adapter_bytes"] - summaries[0]["adapter_bytes"] == gradients > 0
    assert summaries[1]["ppl"] == pytest.approx(summaries[0]["ppl"], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("fault", [test_mistakes.kill, test_mistakes.hang], ids=["killed", "silent"])
def test_a_lost_server_ends_the_run_of_the_other(
    fault: Callable[[object], None], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """It is lost with its clients served: the other server alone waits for it, in the sum of gradients."""

    def fail_second(self: object) -> None:
        if self.context.world.rank == 3:  # type: ignore[attr-defined]
            fault(self)

    before = test_mistakes.at_step(ServerRole, "sum_over_servers", fail_second)
    started = time.monotonic()
    outcome = test_mistakes.train(model_folders["gpt2"], tmp_path / "run", "roles.server_ranks=2", before=before)
    assert outcome.code in (1, 2) and time.monotonic() - started < 40
    assert outcome.stderr.count("error: ") == 1 and "rank 3 (server)" in outcome.stderr, outcome.stderr
    logs = "".join(file.read_text() for file in (tmp_path / "run" / "log").iterdir())
    assert "rank 3 (server)" in logs and "during the sum of gradients, step 3" in logs
