"""The embedded model is small, whole, and of use; and the script that made it still runs."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers

from splitcom_dist.data.batching import collate
from splitcom_dist.data.corpora import load
from splitcom_dist.data.tokens import tokenize
from splitcom_dist.metrics.perplexity import perplexity
from splitcom_dist.models.sources import TINY, find_model
from splitcom_dist.models.split import load_part, whole
from splitcom_dist.models.tiny import pretrain
from splitcom_dist.models.tiny.corpus import from_file


def test_weights_are_small_and_finite() -> None:
    assert (TINY / "model.safetensors").stat().st_size <= 8_000_000
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    assert model.dtype == torch.bfloat16
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("text", ["Hello, world.", "Café Adriatic £ 20 - 25", "日本語 🙂\n\ttabs", "  two  spaces", ""])
def test_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = find_model("tiny").tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("a<|endoftext|>b")["input_ids"].count(tokenizer.eos_token_id) == 1


def test_it_knows_english_it_was_not_trained_on() -> None:
    source = find_model("tiny")
    samples = tokenize(load("synthetic", None, "validation", limit=40), source.tokenizer(), 128, "error").samples
    model = load_part(source, whole(source.block_count), torch.float32)
    uniform = math.log(source.vocabulary)
    found = perplexity(model, samples, 16)
    assert found.loss < 0.75 * uniform
    assert found.targets == sum(len(sample.tokens) - sample.target_start for sample in samples)
    shuffled = collate(samples[:1]).input_ids
    assert shuffled.max() < source.vocabulary


def test_model_card_names_data_licences_and_losses() -> None:
    card = (TINY / "README.md").read_text()
    for text in ("CC BY-SA", "GSM8K", "MIT", "loss.png", "generated", "million tokens", "seed"):
        assert text in card
    assert (TINY / "loss.csv").read_text().count("\n") > 10


def test_pretraining_runs_from_any_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("A short text about ships and the sea. " * 200)
    lines = [json.dumps({"source": f"question {n}", "target": f"answer {n} is {2 * n}"}) for n in range(300)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    arguments = ["--text", str(tmp_path / "notes.txt"), str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out")]
    small = ["--steps", "3", "--batch", "2", "--length", "32", "--generated", "200", "--threads", "1"]
    assert pretrain.main([*arguments, *small]) == 0
    source = find_model(str(tmp_path / "out"))
    assert source.vocabulary == 4096 and source.tokenizer().eos_token == "<|endoftext|>"
    assert {"loss.csv", "loss.png", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert pretrain.main(["--text", str(tmp_path / "absent.txt"), "--out", str(tmp_path / "never")]) == 2


def test_wikitext_articles_become_documents_without_tokenizer_marks(tmp_path: Path) -> None:
    text = "\n = Ships = \n\n A ship ( a boat ) sails , at 3 @.@ 5 knots . \n\n = = Sails = = \n\n White . \n"
    text += "\n = Sea = \n\n Wide . \n"
    (tmp_path / "wiki.txt").write_text(text)
    documents = from_file(tmp_path / "wiki.txt").documents
    assert len(documents) == 2 and "A ship (a boat) sails, at 3.5 knots." in documents[0][0]


@pytest.mark.parametrize("row", ["not json", '{"source": "no target"}', ""])
def test_malformed_pretraining_text_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    assert pretrain.main(["--text", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_text_shorter_than_a_window_can_be_trained_on(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A short text of few words.")
    small = ["--steps", "1", "--batch", "2", "--generated", "200", "--threads", "1"]
    assert pretrain.main(["--text", str(tmp_path / "short.txt"), "--out", str(tmp_path / "out"), *small]) == 0
