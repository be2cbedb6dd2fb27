"""Texts a model writes after given sources: greedily, or by beam search as in the LoRA paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from splitcom_dist.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen; for E2E the LoRA paper (table 12) takes 10 beams and the defaults below."""

    beams: int = 1  # 1 is greedy
    max_new_tokens: int = 64
    length_penalty: float = 0.9  # beams are ranked by log-likelihood / tokens ** length_penalty
    no_repeat_ngram: int = 4  # beam search writes no n-gram of this size twice; 0 is off
    batch_size: int = 16  # sources at a time; each takes `beams` rows


class NoRepeatAfterPrompt(LogitsProcessor):  # type: ignore[misc]
    """Forbids n-grams the text itself has already; those of its source may be copied, as in LoRA's gpt2_beam.py."""

    def __init__(self, size: int, prompt_length: int) -> None:
        self.rule, self.prompt_length = NoRepeatNGramLogitsProcessor(size), prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return cast(Tensor, self.rule(input_ids[:, self.prompt_length :], scores))


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    decoding: Decoding,
    after_batch: Callable[[], None] = lambda: None,
) -> list[str]:
    """One text a source, in order, dropout off. A prompt is what training saw: `encode(source) + [eos]`.

    `after_batch` shows progress. Raises UserError for a source that leaves no room for max_new_tokens.
    """
    if not sources:
        return []
    eos = cast(int, tokenizer.eos_token_id)
    encoded = cast(Any, tokenizer)(list(sources), add_special_tokens=False, verbose=False)["input_ids"]
    written = continuations(model, [[*ids, eos] for ids in encoded], eos, decoding, after_batch)
    return [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in written]


@torch.inference_mode()
def continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    eos: int,
    decoding: Decoding,
    after_batch: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to eos (left out) or max_new_tokens. Raises UserError."""
    _check_room(model, prompts, decoding.max_new_tokens)
    # Longest first: alike lengths share a batch, and memory that does not suffice is known at once.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    found: dict[int, list[int]] = {}
    # What generation_config.json of a hub model asks for (sampling, penalties) would fill every value unset here.
    was_training, own_settings = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        for start in range(0, len(order), decoding.batch_size):
            chosen = order[start : start + decoding.batch_size]
            rows = _continue_batch(model, [prompts[index] for index in chosen], eos, decoding)
            found |= zip(chosen, rows, strict=True)
            after_batch()
    finally:
        model.generation_config = own_settings
        model.train(was_training)
    return [found[index] for index in range(len(prompts))]


def _continue_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], eos: int, decoding: Decoding
) -> list[list[int]]:
    # Padded on the left, so that every row's next token is in the same column; masked, and positions start after it.
    length = max(map(len, prompts))
    ids = torch.tensor([[eos] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, do_sample=False, use_cache=True, eos_token_id=eos, pad_token_id=eos
    )
    rules = LogitsProcessorList()
    if decoding.beams > 1:
        settings.num_beams = decoding.beams
        settings.length_penalty = decoding.length_penalty
        if decoding.no_repeat_ngram:
            rules.append(NoRepeatAfterPrompt(decoding.no_repeat_ngram, length))
            settings.renormalize_logits = True  # LoRA forbids before its softmax, Hugging Face after
    output = cast(Any, model).generate(
        input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=rules
    )
    rows: list[list[int]] = output[:, length:].tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def _check_room(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    positions = int(model.config.max_position_embeddings)
    longest = max(map(len, prompts), default=0)
    if longest + new_tokens - 1 > positions:  # the last token is only predicted
        room = positions - longest + 1
        mend = f"lower max_new_tokens to {room} or less" if room > 0 else "shorten or leave out such sources"
        raise UserError(
            f"max_new_tokens={new_tokens}: the longest source takes {longest} of the model's {positions} positions; "
            f"{mend}"
        )
