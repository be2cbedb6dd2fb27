"""Attributes to text: a meaning representation, and sentences that say some of it in one of many ways."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Meaning = dict[str, str]  # attribute -> value, in the order it is written


@dataclass(frozen=True)
class Domain:
    """A domain of generated descriptions.

    `attributes` are the values each attribute may take; `required` ones are always present. An opening names the
    thing and may use further attributes; a clause is a predicate of one attribute. Both are templates with {attribute}
    in them. A clause is keyed by attribute, or by attribute and value where the wording depends on the value.
    """

    attributes: Mapping[str, Sequence[str]]
    required: Sequence[str]
    openings: Sequence[str]
    clauses: Mapping[str | tuple[str, str], Sequence[str]]
    pronouns: Sequence[str] = ("It",)
    joins: Sequence[str] = (" and ",)


def linearise(meaning: Meaning) -> str:
    """`name : The Vaults | Type : pub | ...`"""
    return " | ".join(f"{attribute} : {value}" for attribute, value in meaning.items())


def parse(source: str) -> Meaning:
    """The meaning that `linearise` wrote."""
    return dict(part.split(" : ", 1) for part in source.split(" | "))


def draw_meaning(domain: Domain, rng: random.Random) -> Meaning:
    """A random meaning: every required attribute, and each other one with probability 0.6, two at least in all."""
    kept = [name for name in domain.attributes if name in domain.required or rng.random() < 0.6]
    optional = [name for name in domain.attributes if name not in domain.required]
    if len(kept) == len(domain.required):
        kept.append(rng.choice(optional))
    return {name: rng.choice(domain.attributes[name]) for name in domain.attributes if name in kept}


def describe(domain: Domain, meaning: Meaning, rng: random.Random) -> str:
    """One text that says nothing beyond the meaning, in one of many orders and wordings."""
    opening = rng.choice([text for text in domain.openings if _fields(text) <= meaning.keys()])
    rest = [name for name in meaning if name not in _fields(opening)]
    rng.shuffle(rest)
    clauses = [_clause(domain, name, meaning, rng) for name in rest]
    sentences = [opening.format(**meaning)]
    while clauses:
        take = clauses[: rng.choice((1, 1, 2, 2, 3))]
        del clauses[: len(take)]
        subject = rng.choice((*domain.pronouns, meaning["name"]))
        last = rng.choice(domain.joins) + take[-1] if len(take) > 1 else ""
        sentences.append(subject + " " + ", ".join(take[:-1] or take) + last)
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def _clause(domain: Domain, name: str, meaning: Meaning, rng: random.Random) -> str:
    wordings = domain.clauses.get((name, meaning[name])) or domain.clauses[name]
    return rng.choice(list(wordings)).format(**meaning)


def _fields(template: str) -> set[str]:
    return {part.split("}")[0] for part in template.split("{")[1:]}
