"""Generated texts: alike in any batch, in order, ended by eos, and as likely as beam search can make them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from splitcom_dist.data.examples import Example
from splitcom_dist.data.synthetic import restaurants
from splitcom_dist.data.tokens import tokenize
from splitcom_dist.errors import UserError
from splitcom_dist.metrics.generation import Decoding, NoRepeatAfterPrompt, continuations, generate

EOS = 0
SOURCES = [source for source, _ in restaurants("validation", 4, 1)] + ["", "name : Ox", "a b c d e f g"]
GREEDY = Decoding(max_new_tokens=12, batch_size=4)
BEAM = Decoding(beams=4, max_new_tokens=12, batch_size=4)
# Added to the logit of eos, so that some texts of a random model end early and some do not.
EOS_BIAS = {"gpt2": 1.5, "opt": 0.45, "gpt_neox": 2.0} | dict.fromkeys(("llama", "qwen2", "mistral"), 0.7)


def load(folder: Path) -> tuple[Any, Any]:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, sources: list[str] = SOURCES) -> list[list[int]]:
    return [[*tokenizer(source, add_special_tokens=False)["input_ids"], EOS] for source in sources]


def prefer(model: Any, token: int, amount: float) -> None:
    """Raise one token's logit by `amount` everywhere."""

    def add(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., token] += amount
        return logits

    model.lm_head.register_forward_hook(add)


@torch.no_grad()
def log_likelihood(model: Any, prompt: list[int], text: list[int], max_new_tokens: int) -> float:
    """Of the text, and of the eos behind it if it is shorter than `max_new_tokens`."""
    targets = [*text, EOS][:max_new_tokens]
    logits = model(input_ids=torch.tensor([[*prompt, *targets[:-1]]])).logits[0, len(prompt) - 1 :]
    return float(logits.log_softmax(-1)[torch.arange(len(targets)), targets].sum())


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "mistral", "opt", "gpt_neox"])
@pytest.mark.parametrize("decoding", [GREEDY, BEAM], ids=["greedy", "beam"])
def test_a_batch_of_mixed_lengths_writes_what_one_by_one_writes(
    family: str, decoding: Decoding, model_folders: dict[str, Path]
) -> None:
    model, tokenizer = load(model_folders[family])
    prefer(model, EOS, EOS_BIAS[family])
    prompts = encode(tokenizer)
    together = continuations(model, prompts, EOS, decoding)
    assert together == [continuations(model, [prompt], EOS, decoding)[0] for prompt in prompts]
    assert len({len(text) for text in together}) > 1, "the test would not see what a row that ended does to others"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_takes_the_likeliest_token_of_a_whole_forward_pass(family: str, model_folders: dict[str, Path]) -> None:
    model, tokenizer = load(model_folders[family])
    for prompt, text in zip(encode(tokenizer), continuations(model, encode(tokenizer), EOS, GREEDY), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *text]])).logits[0]
        likeliest = logits.argmax(-1)[len(prompt) - 1 :].tolist()
        assert text == likeliest[: len(text)] and (len(text) == GREEDY.max_new_tokens or likeliest[len(text)] == EOS)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_beam_search_finds_texts_at_least_as_likely_as_greedy_ones(family: str, model_folders: dict[str, Path]) -> None:
    model, tokenizer = load(model_folders[family])
    prefer(model, EOS, EOS_BIAS[family])
    prompts = encode(tokenizer)
    # Beams wide for the length: a narrow beam may lose the greedy text on the way, above all in a random model.
    greedy, beam = Decoding(max_new_tokens=6), Decoding(64, 6, length_penalty=0.0, no_repeat_ngram=0)
    texts = (continuations(model, prompts, EOS, decoding) for decoding in (greedy, beam))
    gains = [
        log_likelihood(model, prompt, better, 6) - log_likelihood(model, prompt, text, 6)
        for prompt, text, better in zip(prompts, *texts, strict=True)
    ]
    assert min(gains) >= -1e-4 and max(gains) > 0.1, gains


def test_prompt_is_what_training_saw_and_order_is_kept(model_folders: dict[str, Path]) -> None:
    model, tokenizer = load(model_folders["gpt2"])
    samples = tokenize([Example(source, "x") for source in SOURCES], tokenizer, 128, "error").samples
    assert encode(tokenizer) == [sample.tokens[: sample.target_start].tolist() for sample in samples]
    texts = generate(model, tokenizer, SOURCES, GREEDY)
    expected = [tokenizer.decode(ids).strip() for ids in continuations(model, encode(tokenizer), EOS, GREEDY)]
    assert texts == expected and generate(model, tokenizer, SOURCES[::-1], GREEDY) == expected[::-1]


def test_text_ends_at_eos_and_progress_is_told(model_folders: dict[str, Path]) -> None:
    model, tokenizer = load(model_folders["llama"])
    batches: list[int] = []
    free = generate(model, tokenizer, SOURCES, GREEDY, lambda: batches.append(1))
    assert len(batches) == 2 and any(free)
    prefer(model, EOS, 1e4)
    assert generate(model, tokenizer, SOURCES, GREEDY) == generate(model, tokenizer, SOURCES, BEAM) == [""] * 7
    assert generate(model, tokenizer, [], GREEDY) == []


def test_beam_search_repeats_no_ngram_of_its_own_but_may_copy_its_source(model_folders: dict[str, Path]) -> None:
    model, _ = load(model_folders["gpt2"])
    for token in (5, 6):
        prefer(model, token, 1e4)
    (text,) = continuations(model, [[7, EOS]], EOS, Decoding(beams=2, max_new_tokens=12, no_repeat_ngram=4))
    ngrams = [tuple(text[start : start + 4]) for start in range(len(text) - 3)]
    assert len(set(ngrams)) == len(ngrams) == 9
    rule, scores = NoRepeatAfterPrompt(4, prompt_length=5), torch.zeros(2, 10)
    ids = torch.tensor([[5, 6, 7, 8, EOS, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, EOS, 5, 6, 7, 8, 5, 6, 7]])
    assert rule(ids, scores).isinf().nonzero().tolist() == [[1, 8]]


def test_settings_of_the_model_itself_are_ignored_and_kept(model_folders: dict[str, Path]) -> None:
    model, tokenizer = load(model_folders["llama"])
    expected = generate(model, tokenizer, SOURCES, GREEDY)
    model.generation_config = own = transformers.GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=5.0, min_new_tokens=3
    )
    model.train()
    assert generate(model, tokenizer, SOURCES, GREEDY) == expected
    assert model.generation_config is own and model.training


@pytest.mark.parametrize(("length", "room"), [(120, "lower max_new_tokens to 9 or less"), (129, "shorten or leave")])
def test_a_source_without_room_says_what_to_lower(length: int, room: str, model_folders: dict[str, Path]) -> None:
    model, _ = load(model_folders["gpt2"])
    with pytest.raises(UserError, match=room):
        continuations(model, [[1] * length, [1]], EOS, GREEDY)
    if length == 120:
        (text, _) = continuations(model, [[*[1] * length, EOS], [1]], EOS, Decoding(max_new_tokens=8))
        assert len(text) <= 8, "the prompt's last token fills the room"
