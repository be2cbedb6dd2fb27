"""`splitcom profile` meets all ranks of a run, times their parts, and sees its slow links."""

from pathlib import Path

import pytest
from conftest import run_command

from splitcom_dist.config.files import load_config
from splitcom_dist.models.sources import find_model
from splitcom_dist.plan.cluster import read
from splitcom_dist.profiling.batch import typical_batch
from splitcom_dist.profiling.compute import measure_codec, measure_rank

RUN = [
    *("data.train_samples=16", "data.max_length=128", "train.batch_size=4", "roles.client_ranks=2", "fed.clients=2"),
    *("runtime.threads=1", "runtime.link.up_mbit=16", "runtime.link.down_mbit=32", "runtime.link.delay_ms=20"),
]


@pytest.mark.long
def test_every_rank_and_edge_is_measured_over_the_slow_link(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    found = run_command(["profile", *RUN, "--out", str(file)], timeout=200)
    assert found.code == 0, found.stderr
    profile = read(file)
    assert [(speed.rank, speed.role) for speed in profile.ranks] == [(0, "client"), (1, "client"), (2, "server")]
    assert [(edge.client_rank, edge.server_rank) for edge in profile.edges] == [(0, 2), (1, 2)]
    for speed in profile.ranks:
        assert speed.forward.first > 0 and speed.backward.first > 0 and (speed.process_bytes or 0) > 1e7
        assert set(speed.codecs) == {"none", "fp16", "int8"}
    for edge in profile.edges:
        assert 0.5 * 2e6 < edge.up <= 2e6, "16 Mbit/s"
        assert 0.5 * 4e6 < edge.down <= 4e6
        assert 0.02 <= edge.latency_seconds < 0.06


def test_the_batch_is_the_mean_of_the_first_epochs() -> None:
    config = load_config([], RUN)
    batch, tokens = typical_batch(config, find_model("tiny"))
    assert batch.samples == 4
    assert batch.length <= config.data.max_length - 1
    assert batch.targets is not None and batch.targets < tokens <= batch.positions


@pytest.mark.long
def test_more_blocks_and_more_rows_take_longer() -> None:
    config, source = load_config([], ["runtime.threads=1"]), find_model("tiny")
    batch, tokens = typical_batch(load_config([], RUN), source)
    for role in ("client", "server"):
        speed = measure_rank(config, source, 0, role, batch, tokens)
        assert speed.forward(6) > speed.forward(1)
    few, many = (measure_codec(config, source, "int8", 4, rows) for rows in (40, 40_000))
    assert many.encode > few.encode and many.decode > few.decode


@pytest.mark.parametrize(
    ("extra", "reason"),
    [(["model.tail_layers=1"], "only the standard shape"), (["--out", "/nowhere/p.json"], "no such folder")],
)
def test_mistakes_are_one_line(extra: list[str], reason: str) -> None:
    found = run_command(["profile", *RUN, *extra])
    assert found.code == 2
    assert reason in found.stderr and found.stderr.count("\n") == 1
