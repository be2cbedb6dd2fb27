"""`splitcom evaluate`: a run's own perplexity again, scores of generated text, and one line for every mistake."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import run_command

from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.errors import UserError
from splitcom_dist.evaluation.command import add_arguments, evaluate, references_by_source

SCORES = {"bleu", "nist", "meteor", "meteor_variant", "rouge_l", "cider"}


def call(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert evaluate(parser.parse_args([str(argument) for argument in arguments])) == 0


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def outputs_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which no test changes."""
    out = tmp_path_factory.mktemp("evaluate") / "run"
    settings = {
        "model.name": model_folders["gpt2"], "model.cut_layer": 2, "lora.rank": 4, "data.max_length": 120,
        "data.train_samples": 24, "data.validation_samples": 12, "roles.client_ranks": 2, "fed.clients": 2,
        "fed.every": 3, "train.epochs": 1, "train.batch_size": 4, "train.lr": 1e-3, "telemetry.progress": False,
    }  # fmt: skip
    outcome = run_command(["train", *(f"{key}={value}" for key, value in settings.items()), "--out", str(out)])
    assert outcome.code == 0, outcome.stderr
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run again, for a test to change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_a_run_has_its_own_perplexity_and_scores_of_all_texts(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(copied, "--limit", 5, "--max-new-tokens", 8)
    report = report_of(copied / "evaluation.json")
    summary = report_of(copied / "summary.json")
    assert report["ppl"] == pytest.approx(summary["ppl"], rel=1e-5) and report["samples"] == 12
    assert set(report) >= SCORES and 0 <= report["bleu"] <= 100
    rows = outputs_of(copied / report["outputs"])
    assert report["sources"] == len(rows) == 5 and report["references"] == 10, "all texts of a source count"
    texts = references_by_source(load("synthetic", None, "validation"))
    assert all(texts[row["source"]] == row["references"] and row["output"] for row in rows)
    assert report["decoding"] == {
        "beams": 1, "max_new_tokens": 8, "length_penalty": 0.9, "no_repeat_ngram": 4, "batch_size": 16
    }  # fmt: skip
    assert report["arguments"]["limit"] == 5 and report["versions"]["transformers"] == transformers.__version__
    printed = capsys.readouterr().out
    for part in ("perplexity", "BLEU", "CIDEr", "5 texts, greedy, against 10 references", f"{report['ppl']:.4g}"):
        assert part in printed


def test_perplexity_alone_generates_nothing(copied: Path) -> None:
    call(copied / "adapter", "--no-generation")
    report = report_of(copied / "evaluation.json")
    assert report["ppl"] == pytest.approx(report_of(copied / "summary.json")["ppl"], rel=1e-5)
    assert "bleu" not in report and report["outputs"] is None
    assert not (copied / "evaluation_outputs.jsonl").exists()


def test_another_split_is_taken_whole(copied: Path, tmp_path: Path) -> None:
    call(copied, "--no-generation", "--split", "test", "--out", tmp_path / "test.json")
    assert report_of(tmp_path / "test.json")["samples"] == 200 and not (copied / "evaluation.json").exists()


def test_a_bare_adapter_is_evaluated_with_beams_on_named_data(run: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(run / "adapter", tmp_path / "elsewhere")
    rows = [{"source": f"name : {name}", "target": f"{name} is a pub ."} for name in ("Ox", "Elk", "Ox")]
    data, out = tmp_path / "valid.jsonl", tmp_path / "scores.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    decoding = ["--beams", 3, "--max-new-tokens", 6, "--no-repeat-ngram", 2, "--length-penalty", 0.8]
    call(adapter, "--data", "jsonl", "--data-path", tmp_path, *decoding, "--out", out)
    report = report_of(out)
    assert (report["samples"], report["sources"], report["references"]) == (3, 2, 3) and set(report) >= SCORES
    assert report["decoding"]["beams"] == 3 and report["decoding"]["no_repeat_ngram"] == 2
    assert [row["source"] for row in outputs_of(tmp_path / "scores_outputs.jsonl")] == ["name : Ox", "name : Elk"]
    call(adapter, "--data", "synthetic", "--no-generation")
    assert sorted(path.name for path in adapter.iterdir()) == sorted(path.name for path in (run / "adapter").iterdir())


def test_plain_text_has_perplexity_only(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "valid.txt").write_text("a pub near the river\n\nanother one\n")
    call(run, "--data", "jsonl", "--data-path", tmp_path, "--out", tmp_path / "plain.json")
    report = report_of(tmp_path / "plain.json")
    assert report["ppl"] > 1 and "sources" not in report and "no scores" in capsys.readouterr().out


def test_references_are_the_rows_own_or_all_texts_of_a_source() -> None:
    examples = [Example("a", "1"), Example("b", "2", ("3", "4")), Example(None, "plain"), Example("a", "5")]
    assert references_by_source(examples) == {"a": ["1", "5"], "b": ["3", "4"]}


def refuse(part: str, *arguments: object) -> None:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--data", "e2f"], "data.name=e2f: no such corpus; did you mean e2e?"),
        (["--data", "jsonl"], "data.name=jsonl needs data.path"),
        (["--data", "jsonl", "--data-path", "/none.jsonl"], "data.path=/none.jsonl: no such file"),
        (["--beams", "0"], "--beams=0: must be at least 1"),
        (["--limit", "0"], "--limit=0: must be at least 1"),
        (["--model", "/none"], "model.name=/none: no such directory"),
        (["--max-new-tokens", "500"], "max_new_tokens=500"),
        (["--out", "/none/x.json"], "no folder /none; make it first"),
        (["--out", "/tmp"], "/tmp: cannot be written"),
    ],
)
def test_a_mistake_in_an_argument_is_one_line(arguments: list[str], part: str, run: Path) -> None:
    refuse(part, run, *arguments)


def test_a_mistaken_target_is_one_line(run: Path, model_folders: dict[str, Path], tmp_path: Path) -> None:
    for missing in (tmp_path / "none", "none", "tests/none", Path(__file__)):
        refuse("no such folder", missing)
    refuse("no adapter_config.json", tmp_path)
    bare = Path(shutil.copytree(run / "adapter", tmp_path / "bare"))
    refuse("say with --data", bare)
    refuse("does not fit", bare, "--data", "synthetic", "--model", model_folders["llama"])
    (bare / "adapter_model.safetensors").write_bytes(b"cut off")
    refuse("does not fit", bare, "--data", "synthetic")
    settings = json.loads((bare / "adapter_config.json").read_text())
    (bare / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    refuse("names no base model", bare, "--data", "synthetic")
    (bare / "adapter_config.json").write_text("[]")
    refuse("not an adapter's settings", bare, "--data", "synthetic")
    (bare / "adapter_model.safetensors").unlink()
    refuse("has no adapter_model.safetensors", bare)


def test_an_unfinished_run_and_an_adapter_of_fewer_layers_are_refused(copied: Path, tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(report_of(copied / "summary.json")["config"]["model"]["name"])
    config.n_layer = 6
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "deeper")
    refuse("does not fit", copied, "--model", tmp_path / "deeper", "--no-generation")
    shutil.rmtree(copied / "adapter")
    refuse("the run has not finished its training", copied)
