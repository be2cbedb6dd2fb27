"""Two ways to cut a sentence into words: the one of BLEU and NIST (mteval-13a), the one of the COCO caption metrics.

Both give lower-case words. `coco_words` stands for Stanford's PTBTokenizer 3.4.1 with -lowerCase, followed by the
punctuation list of coco-caption; it needs no Java.
"""

import re
from functools import lru_cache

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_MTEVAL_RULES = tuple(
    (re.compile(pattern), spaced)
    for pattern, spaced in (
        (r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 "),  # punctuation other than . , - '
        (r"([^0-9])([\.,])", r"\1 \2 "),
        (r"([\.,])([^0-9])", r" \1 \2"),
        (r"([0-9])(-)", r"\1 \2 "),
    )
)


@lru_cache(maxsize=1 << 16)
def mteval_words(sentence: str) -> tuple[str, ...]:
    """Words and punctuation marks as mteval-v13a.pl cuts Western text."""
    text = sentence.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, spaced in _MTEVAL_RULES:
        text = pattern.sub(spaced, text)
    return tuple(text.lower().split())


_QUOTES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-", "\u2026": ".", "\u201c": '"', "\u201d": '"'}
)
_ENCLITIC = re.compile(r"(?<=[^\W_])('(?:s|d|m|re|ve|ll))(?![^\W_])|(?<=[^\W_])(n't)(?![^\W_])")
_TWO_WORDS = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b")
_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|inc|co|corp|ltd|bros|"
    "st|rd|ave|blvd|mt|ft|mr|mrs|ms|dr|prof|rev|hon|jr|sr|gen|col|capt|lt|sgt|etc|vs|approx|dept|est|fig"
)
_TOKEN = re.compile(
    rf"""
      n't(?![^\W_]) | '(?:s|d|m|re|ve|ll)(?![^\W_])   # clitics, set apart before
    | [^\W_][^\W_.,]*(?:[.,]+[^\W_]+)*(?:-[^\W_]+)+    # family-friendly, 20-25, also food,low-priced
    | (?:(?<!-)[+-])?(?:\d+(?:[.,:/]\d+)*|(?:[.]\d+)+)(?![^\W_])  # 20, 10.50, 3/5, -25, .6
    | (?:[^\W\d_]\.)+[^\W\d_]\b\.?                     # u.s., p.m
    | nos?\.(?=\s*\d)                               # no. 5
    | (?:{_ABBREVIATIONS}|[^\W\d_])\.(?![^\W_])        # st., etc., initials
    | [od]'[^\W\d_]+                                   # d'oeuvres, o'neill
    | \d+[^\W_]+                                       # 5and, 1st
    | [^\W\d_][^\W_]*(?:[.!?][^\W\d_][^\W_]*)*(?:\.(?=[,;:]))?  # words; a lacking space after a full stop joins two
    | [?!]{{2,}} | [^\w\s.,:;?!'"`-]
    """,
    re.VERBOSE,
)
_RENAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$"}


@lru_cache(maxsize=1 << 16)
def coco_words(sentence: str) -> tuple[str, ...]:
    """Words as the COCO caption metrics see them: Penn Treebank style, no quotes, stops, commas or lone dashes.

    Brackets stay, as `-lrb-` and so on: coco-caption lists them in capitals and so never removes the lower-case ones.
    """
    text = _TWO_WORDS.sub(_spaced, sentence.lower().translate(_QUOTES))
    text = _ENCLITIC.sub(lambda match: " " + match.group(), text)
    return tuple(_RENAMED.get(token, token) for token in _TOKEN.findall(text))


def _spaced(match: re.Match[str]) -> str:
    return " ".join(part for part in match.groups() if part)
