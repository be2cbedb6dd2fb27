"""What every corpus becomes: a list of Examples, whatever it was read from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
# WikiText marks an article by " = Title = " and its sections by more equals signs.
ARTICLE_HEADING = re.compile(r" ?= [^=](.*[^=])? = ?")


@dataclass(frozen=True)
class Example:
    """One text: `source` is context, `target` is learnt; without a source (plain text) every token is learnt.

    `references` is filled only from files that group all texts of a source in one row (`*_refs`).
    `fields` are what else its row says in one word, text, number or truth: a category, say.
    """

    source: str | None
    target: str
    references: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def scalar_fields(row: Mapping[str, Any], *known: str) -> dict[str, str]:
    """The fields of a row that are one word each, as text, without those that are `known`."""
    return {key: str(value) for key, value in row.items() if key not in known and isinstance(value, str | int | float)}


def articles(lines: Sequence[str]) -> list[Example]:
    """Plain text as one Example per article, or per paragraph where no line is an article heading.

    A heading counts only between blank lines: formulas in WikiText look like headings otherwise.
    """
    blank = [not line.strip() for line in lines]
    blank.append(True)  # after the last line, and as blank[-1] before the first
    at = range(len(lines))
    starts = [i for i in at if ARTICLE_HEADING.fullmatch(lines[i]) and blank[i - 1] and blank[i + 1]]
    starts = starts or [i for i in at if blank[i - 1] and not blank[i]]
    bounds = sorted({0, *starts, len(lines)})
    texts = ("\n".join(lines[start:end]).strip() for start, end in pairwise(bounds))
    return [Example(None, text) for text in texts if text]


def draw(count: int, size: int, seed: int) -> list[int]:
    """`size` of `count` indices, ascending; a smaller draw with the same seed is part of a larger one."""
    return sorted(np.random.default_rng(seed).permutation(count)[:size].tolist())
