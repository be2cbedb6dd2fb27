"""What every corpus becomes: a list of Examples, whatever it was read from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SPLITS = ("train", "validation", "test")
# WikiText marks an article by " = Title = " and its sections by more equals signs.
ARTICLE_HEADING = re.compile(r" ?= [^=](.*[^=])? = ?")


@dataclass(frozen=True)
class Example:
    """One text: `source` is context, `target` is learnt; without a source (plain text) every token is learnt.

    `references` is filled only from files that group all texts of a source in one row (`*_refs`).
    """

    source: str | None
    target: str
    references: tuple[str, ...] = ()


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
