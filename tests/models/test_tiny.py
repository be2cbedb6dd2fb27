"""The embedded model: small enough to ship, whole, better than chance; and its pretraining runs."""

import csv
import math
import re
from pathlib import Path

import pytest
import torch
import transformers

from splitcom_dist.data.synthetic import restaurants
from splitcom_dist.models.sources import TINY
from splitcom_dist.models.tiny import pretrain

TEXTS = [
    "The Copper Kettle is a pub. It costs £ 20 - 25.",
    "naïve Café Øresund, 東京 🍜\n\n\ttabs  and   spaces ",
    "a<|endoftext|>b",
    "",
]


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(TINY)


def target_loss(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase, source: str, target: str
) -> tuple[float, int]:
    """Summed loss over the tokens of the target and its end mark, and their number."""
    end = [tokenizer.eos_token_id]
    head, tail = tokenizer.encode(source) + end, tokenizer.encode(" " + target) + end
    with torch.no_grad():
        logits = model(torch.tensor([head + tail])).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[len(head) - 1 : -1], torch.tensor(tail), reduction="sum")
    return float(losses), len(tail)


def test_the_files_are_small_enough_to_ship() -> None:
    assert (TINY / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 9_000_000


def test_card_and_loss_curve_lie_beside_the_weights() -> None:
    with (TINY / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train"]) < float(rows[0]["train"])
    card = (TINY / "README.md").read_text()
    assert "CC BY-SA 3.0" in card
    assert "MIT" in card
    assert not re.search(r"(?<![\w<.])/\w+/", card), "a path of the machine that made it"


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_one_end_of_text_mark_is_every_special_token(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    ids = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    assert ids == set(tokenizer.encode("<|endoftext|>"))
    assert len(tokenizer) == 4096


def test_weights_are_stored_as_bfloat16_and_finite(model: transformers.PreTrainedModel) -> None:
    assert transformers.AutoConfig.from_pretrained(TINY).dtype == torch.bfloat16
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_restaurants_are_far_from_random_guessing_yet_not_known(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    losses = [target_loss(model, tokenizer, *pair) for pair in restaurants("test", 8, 1)]
    perplexity = math.exp(sum(loss for loss, _ in losses) / sum(count for _, count in losses))
    assert 3 < perplexity < 4096 / 8


def test_pretraining_writes_a_folder_that_loads(tmp_path: Path) -> None:
    lines = [" = Title = ", " Some words , and ( more ) words @-@ all of them , but not <unk> . "] * 40
    (tmp_path / "text.txt").write_text("\n".join(lines))
    out = tmp_path / "out"
    fast = ["--generated", "300", "--steps", "2", "--threads", "1"]
    assert pretrain.main(["--text", str(tmp_path / "text.txt"), "--out", str(out), *fast]) == 0
    transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert {file.name for file in out.iterdir()} >= {"README.md", "loss.csv", "loss.png", "model.safetensors"}
    assert str(tmp_path) not in (out / "README.md").read_text()


def test_an_unreadable_text_file_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.txt"
    assert pretrain.main(["--text", str(missing), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(missing) in error
