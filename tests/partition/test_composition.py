"""`splitcom partition` shows what the clients of a run would train on, every sample once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

from splitcom_dist.cli import main
from splitcom_dist.config.files import load_config
from splitcom_dist.models.sources import find_model
from splitcom_dist.partition.composition import MOST_CLASSES, compose
from splitcom_dist.shards import training_shards

POOL = ["data.train_samples=300", "fed.clients=4", "train.batch_size=5"]
PARTITIONS = {
    "iid": [],
    "dirichlet_label": ["data.label_field=food", "data.alpha=0.2"],
    "dirichlet_length": ["data.alpha=0.2", "data.classes=6"],
    "by_source": [],
}


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_composition_is_that_of_the_shards_of_a_run(name: str) -> None:
    config = load_config([], [*POOL, f"data.partition={name}", *PARTITIONS[name]])
    tokenizer = find_model("tiny").tokenizer()
    shown = compose(config, tokenizer)
    shards = training_shards(config, tokenizer, range(4))
    ids = [sample.id for shard in shards.values() for sample in shard]
    assert sorted(ids) == list(range(300))
    assert shown.samples.tolist() == [len(shard) for shard in shards.values()]
    assert shown.tokens.tolist() == [sum(len(sample.tokens) for sample in shard) for shard in shards.values()]
    assert shown.counts.shape == (4, len(shown.names))
    one = training_shards(config, tokenizer, [2])[2]
    assert [sample.id for sample in one] == [sample.id for sample in shards[2]], "whoever asks, the shards are these"


def test_skew_is_told_apart_from_evenness() -> None:
    tokenizer = find_model("tiny").tokenizer()

    def of(*settings: str) -> float:
        return compose(load_config([], [*POOL, *settings]), tokenizer).skew

    assert of("data.partition=dirichlet_length", "data.alpha=0.1") > 0.4 > 0.15 > of("data.partition=iid")
    assert of("data.partition=dirichlet_length", "data.alpha=1e6") < 0.05


def test_texts_of_one_source_stay_with_one_client() -> None:
    config = load_config([], [*POOL, "data.partition=by_source"])
    shards = training_shards(config, find_model("tiny").tokenizer(), range(4))
    owners: dict[bytes, set[int]] = {}
    for client, shard in shards.items():
        for sample in shard:
            owners.setdefault(sample.tokens[: sample.target_start].tobytes(), set()).add(client)
    assert any(len(shard) > 1 for shard in shards.values()) and len(owners) < 300
    assert all(len(clients) == 1 for clients in owners.values())


def test_many_labels_are_shown_as_the_most_frequent_and_the_rest() -> None:
    config = load_config([], [*POOL, "data.partition=dirichlet_label", "data.label_field=name"])
    shown = compose(config, find_model("tiny").tokenizer())
    assert len(shown.names) == MOST_CLASSES and re.fullmatch(r"\d+ others", shown.names[-1])
    assert shown.counts.sum() == 300


def test_clients_with_files_of_their_own_are_shown_too(tmp_path: Path) -> None:
    for client, words in enumerate((3, 9)):
        rows = [{"source": f"name : {number}", "target": "word " * words} for number in range(5 * (client + 1))]
        (tmp_path / f"{client}").mkdir()
        (tmp_path / f"{client}" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["data.name=jsonl", f"data.path={tmp_path}/{{client}}", f"data.validation_path={tmp_path}/0"]
    config = load_config([], [*settings, "fed.clients=2", "roles.client_ranks=2", "data.classes=2"])
    shown = compose(config, find_model("tiny").tokenizer())
    assert shown.samples.tolist() == [5, 10]
    assert shown.counts[0, 0] == 5, "the short ones"


def test_the_table_and_the_figure(tmp_path: Path) -> None:
    settings = [*POOL, "data.partition=dirichlet_length", "data.alpha=0.2", "data.classes=6"]
    for name, magic in (("shards.png", b"\x89PNG"), ("shards.svg", b"<?xml")):
        outcome = run_command(["partition", *settings, "--plot", str(tmp_path / name)])
        assert outcome.code == 0, outcome.stderr
        assert (tmp_path / name).read_bytes().startswith(magic)
    lines = outcome.stdout.splitlines()
    assert lines[0] == "synthetic over 4 clients: dirichlet_length, alpha 0.2"
    rows = [line.split() for line in lines[2:7]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "all"]
    counts = [int(row[1]) for row in rows]
    assert sum(counts[:4]) == counts[4] == 300
    for row in rows:
        shares = [float(share) for share in row[4:] if share != "."]
        assert len(row) == 10 and sum(shares) == pytest.approx(100, abs=0.4)
    steps = [-(-count // 5) for count in counts[:4]]
    assert f"the {max(steps)} steps of the largest shard, the smallest gives to {min(steps)} of them" in lines[-3]
    assert np.isfinite(float(re.findall(r"skew (\S+)", outcome.stdout)[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.partition=dirichlet_label"], "say by which field with data.label_field"),
        (["data.partition=dirichlet_label", "data.label_field=colour"], "there are Type, area, customer rating, "),
        (["data.min_shard=500"], "every client needs data.min_shard=500; lower fed.clients"),
        (["--plot", "shards.pdf"], "--plot=shards.pdf: cannot tell what to draw; name it .png or .svg"),
        (["--plot", "/nowhere/shards.png"], "--plot=/nowhere/shards.png: No such file or directory; "),
        (["data.partition=random"], "data.partition=random: choose one of iid, dirichlet_label"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["partition", *POOL, *arguments]) == 2
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("error: ") and message in error[-1]
