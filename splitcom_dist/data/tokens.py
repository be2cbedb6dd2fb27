"""Examples to token sequences: what the model reads, and from where on it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitcom_dist.data.examples import Example
from splitcom_dist.errors import UserError

OVERLONG = ("truncate", "drop", "error")


@dataclass(frozen=True, eq=False)
class Sample:
    """One sequence, trained on `tokens[target_start:]`; `target_start` is at least 1."""

    id: int
    tokens: np.ndarray  # int32, (length,)
    target_start: int


@dataclass(frozen=True)
class Tokenized:
    """The samples, and how many the length limit shortened or left out."""

    samples: list[Sample]
    truncated: int
    dropped: int


def tokenize(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: str
) -> Tokenized:
    """Samples of at most `max_length` tokens.

    With a source: `encode(source) + [eos] + encode(" " + target) + [eos]`, trained on all after the first eos
    (the input of the LoRA paper, section 5.4); the id is the index in `examples`. `overlong` decides about a
    longer one: truncate (cut the end; dropped if no target token is left), drop, or error.
    Plain texts are joined, an eos after each, and cut into blocks; these are numbered after the last example,
    or from 0 if all are plain.
    Raises UserError for a too long sample under error, for a tokenizer without eos, and if nothing is left.
    """
    if overlong not in OVERLONG:
        raise UserError(f"data.overlong={overlong}: choose one of {', '.join(OVERLONG)}")
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise UserError("model.name: its tokenizer has no end-of-text token, which must end every text")
    pairs = [(index, example) for index, example in enumerate(examples) if example.source is not None]
    texts = [example.target for example in examples if example.source is None]
    samples, truncated = _fit(_join(pairs, tokenizer, eos), max_length, overlong)
    dropped = len(pairs) - len(samples)
    samples += _pack(texts, tokenizer, eos, max_length, first_id=len(examples) if pairs else 0)
    if not samples:
        raise UserError(
            f"data.max_length={max_length}: none of {len(examples)} texts is left, {dropped} were too long; "
            "raise data.max_length or give more text"
        )
    return Tokenized(samples, truncated, dropped)


def _fit(samples: list[Sample], max_length: int, overlong: str) -> tuple[list[Sample], int]:
    """The samples that fit or can be cut to fit, and how many were cut."""
    kept, truncated = [], 0
    for sample in samples:
        if len(sample.tokens) <= max_length:
            kept.append(sample)
        elif overlong == "error":
            raise UserError(
                f"data.max_length={max_length}: sample {sample.id} has {len(sample.tokens)} tokens; "
                "raise data.max_length, or set data.overlong to truncate or drop"
            )
        elif overlong == "truncate" and sample.target_start < max_length:
            kept.append(replace(sample, tokens=sample.tokens[:max_length]))
            truncated += 1
    return kept, truncated


def _join(pairs: list[tuple[int, Example]], tokenizer: PreTrainedTokenizerBase, eos: int) -> list[Sample]:
    sources = _encode([example.source or "" for _, example in pairs], tokenizer)
    # The space makes the first word the token it is in running text.
    targets = _encode([" " + example.target for _, example in pairs], tokenizer)
    return [
        Sample(index, np.array([*source, eos, *target, eos], np.int32), len(source) + 1)
        for (index, _), source, target in zip(pairs, sources, targets, strict=True)
    ]


def _pack(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, eos: int, max_length: int, first_id: int
) -> list[Sample]:
    documents = _encode(texts, tokenizer)
    stream = np.fromiter(chain.from_iterable([*document, eos] for document in documents), np.int32)
    blocks = [stream[start : start + max_length] for start in range(0, len(stream), max_length)]
    # A last block of one token has nothing to predict.
    return [Sample(first_id + k, block, 1) for k, block in enumerate(blocks) if len(block) > 1]


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """One call for all texts: the fast tokenizer spreads them over the cores."""
    if not texts:
        return []
    # verbose=False: a long article is cut into blocks here, so the model's own length limit is no warning.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
