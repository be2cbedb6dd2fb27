"""What the model reads of an Example, and what becomes of one that is too long."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.data.tokens import tokenize
from splitcom_dist.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WORDS = "the pub near a river serves cheap English food and has five stars name Type price area"


def byte_level_bpe() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([WORDS] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


TOKENIZER = byte_level_bpe()
EOS = TOKENIZER.eos_token_id


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def test_source_and_target_are_joined_as_lora_does() -> None:
    (sample,) = tokenize([Example("name : pub", "the pub")], TOKENIZER, 128, "error").samples
    assert sample.tokens.tolist() == [*encode("name : pub"), EOS, *encode(" the pub"), EOS]
    assert sample.tokens.dtype == np.int32 and sample.tokens.ndim == 1
    assert sample.tokens[sample.target_start :].tolist() == [*encode(" the pub"), EOS]


def test_an_empty_source_still_leaves_every_target_token_predicted() -> None:
    (sample,) = tokenize([Example("", "the pub")], TOKENIZER, 128, "error").samples
    assert sample.tokens[0] == EOS and sample.target_start == 1


def test_truncation_cuts_the_target_and_counts() -> None:
    examples = [Example("name", "pub"), Example("name", "the pub near a river")]
    full = tokenize(examples, TOKENIZER, 128, "error").samples
    limit = len(full[1].tokens) - 2
    result = tokenize(examples, TOKENIZER, limit, "truncate")
    assert (result.truncated, result.dropped) == (1, 0)
    assert result.samples[0].tokens.tolist() == full[0].tokens.tolist()
    assert result.samples[1].tokens.tolist() == full[1].tokens[:limit].tolist()
    assert result.samples[1].target_start == full[1].target_start


def test_a_source_that_leaves_no_target_token_is_dropped_and_counted() -> None:
    examples = [Example("name " * 20, "pub"), Example("name", "pub")]
    source = len(encode("name " * 20)) + 1
    result = tokenize(examples, TOKENIZER, source, "truncate")
    assert (result.truncated, result.dropped) == (0, 1)
    assert [sample.id for sample in result.samples] == [1]
    assert tokenize(examples, TOKENIZER, source + 1, "truncate").dropped == 0


def test_dropping_keeps_the_ids_of_the_rest() -> None:
    examples = [Example("name", "pub"), Example("name", "pub " * 50), Example("price", "cheap")]
    result = tokenize(examples, TOKENIZER, 20, "drop")
    assert (result.truncated, result.dropped) == (0, 1)
    assert [sample.id for sample in result.samples] == [0, 2]


def test_overlong_error_names_sample_length_and_key() -> None:
    examples = [Example("name", "pub"), Example("name", "pub " * 50)]
    length = len(encode("name")) + len(encode(" " + "pub " * 50)) + 2
    with pytest.raises(UserError, match=f"data.max_length=20: sample 1 has {length} tokens"):
        tokenize(examples, TOKENIZER, 20, "error")


@pytest.mark.parametrize(
    ("examples", "overlong", "expected"),
    [
        ([], "truncate", "none of 0 texts is left"),
        ([Example("name", "pub " * 50)], "drop", "none of 1 texts is left, 1 were too long"),
        ([Example("name", "pub")], "cut", "data.overlong=cut: choose one of truncate, drop, error"),
    ],
)
def test_nothing_to_train_on_is_one_line(examples: list[Example], overlong: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        tokenize(examples, TOKENIZER, 20, overlong)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_tokenizer_without_end_mark_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    with pytest.raises(UserError, match="end-of-text"):
        tokenize([Example("name", "pub")], bare, 20, "truncate")


def test_end_marks_in_the_text_do_not_move_the_target() -> None:
    (sample,) = tokenize([Example("a<eos>b", "pub")], TOKENIZER, 64, "error").samples
    assert sample.tokens[sample.target_start :].tolist() == [*encode(" pub"), EOS]


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6), st.integers(8, 40))
def test_packing_loses_no_token_but_a_lonely_last_one(texts: list[str], max_length: int) -> None:
    samples = tokenize([Example(None, text) for text in texts], TOKENIZER, max_length, "error").samples
    stream = [token for text in texts for token in [*encode(text), EOS]]
    packed = np.concatenate([sample.tokens for sample in samples]).tolist()
    assert packed == stream[: len(packed)] and len(stream) - len(packed) <= 1
    assert all(len(sample.tokens) == max_length for sample in samples[:-1])
    assert all(sample.target_start == 1 and 2 <= len(sample.tokens) <= max_length for sample in samples)
    assert [sample.id for sample in samples] == list(range(len(samples)))


def test_ids_stay_unique_where_pairs_and_plain_texts_mix() -> None:
    examples = [Example(None, WORDS), Example("name", "pub"), Example(None, WORDS), Example("area", "river")]
    samples = tokenize(examples, TOKENIZER, 8, "truncate").samples
    ids = [sample.id for sample in samples]
    assert len(ids) > len(examples) and len(set(ids)) == len(ids)
    assert ids[:2] == [1, 3]


def test_public_webnlg_has_its_published_token_counts() -> None:
    if not (SHARED / "gpt2_tokenizer").is_dir() or not (SHARED / "webnlg").is_dir():
        pytest.skip(f"{SHARED}/gpt2_tokenizer or {SHARED}/webnlg is absent")
    tokenizer = GPT2Tokenizer.from_pretrained(SHARED / "gpt2_tokenizer")
    samples = tokenize(load("webnlg", str(SHARED / "webnlg"), "train"), tokenizer, 512, "error").samples
    lengths = np.array([len(sample.tokens) for sample in samples])
    assert round(float(lengths.mean()), 1) == 76.6 and lengths.max() == 259
