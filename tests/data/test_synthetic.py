"""The embedded corpus is the same everywhere, its splits are apart, and its texts are true to their sources."""

import subprocess
import sys

import pytest

from splitcom_dist.data.grammar import parse
from splitcom_dist.data.synthetic import FIRST, RESTAURANTS, SECOND, restaurants, split_of
from splitcom_dist.models.tiny.domains import DOMAINS, descriptions

SPLITS = ("train", "validation", "test")


def test_other_processes_generate_the_same_texts() -> None:
    code = "from splitcom_dist.data.synthetic import restaurants; print(restaurants('train', 40, 2, seed=5))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(restaurants("train", 40, 2, seed=5))
    assert restaurants("train", 40, 2, seed=6) != restaurants("train", 40, 2, seed=5)


def test_splits_never_share_a_meaning_whatever_the_seed() -> None:
    sources = {
        split: {source for seed in range(4) for source, _ in restaurants(split, 200, 1, seed)} for split in SPLITS
    }
    assert not sources["train"] & sources["validation"]
    assert not sources["train"] & sources["test"]
    assert not sources["validation"] & sources["test"]
    assert all(split_of(source) == split for split in SPLITS for source in sources[split])


def test_every_meaning_is_distinct_and_has_several_texts() -> None:
    pairs = restaurants("train", 500, 2)
    sources = [source for source, _ in pairs]
    assert len(pairs) == 1000 and len(set(sources)) == 500
    assert sources[0::2] == sources[1::2], "the texts of a meaning stand side by side"
    assert len({target for _, target in pairs}) > 950
    differing = sum(first != second for (_, first), (_, second) in zip(pairs[0::2], pairs[1::2], strict=True))
    assert differing > 450


def test_sources_parse_back_into_known_attributes() -> None:
    for source, _ in restaurants("train", 300, 1):
        meaning = parse(source)
        assert {"name", "Type"} < set(meaning) <= set(RESTAURANTS.attributes)
        assert all(value in RESTAURANTS.attributes[name] for name, value in meaning.items())


CLAIMS = {  # words that state an attribute, whatever its value
    "food": ("food", "cuisine", "dishes"),
    "price": ("£", "cheap", "price", "expensive", "cost", "charges"),
    "customer rating": ("rating", "rated", "reviews", "diners"),
    "area": ("area", "riverside", "city centre", "harbour", "old town"),
    "family friendly": ("family", "families", "child", "kid", "adults"),
    "near": ("near", "close to", "next to", "not far"),
}


def test_texts_say_what_their_source_says_and_nothing_more() -> None:
    for source, text in restaurants("train", 600, 1):
        meaning = parse(source)
        assert meaning["name"] in text and text.endswith(".") and text[0].isupper()
        said = text.replace(meaning["name"], "").replace(meaning.get("near", "?"), "NEARBY").lower()
        for attribute, words in CLAIMS.items():
            stated = any(word in said for word in words)
            assert stated == (attribute in meaning), (attribute, source, text)
        for attribute in ("food", "area"):
            for value in RESTAURANTS.attributes[attribute]:
                assert (value.lower() in said) <= (meaning.get(attribute) == value), (source, text)


def test_pretraining_domains_are_not_about_restaurants() -> None:
    names = {f"The {first} {second}" for first in FIRST for second in SECOND}
    texts = list(descriptions(1000, seed=1))
    assert not any(name in text for _, text in texts for name in names)
    assert not any(word in text for _, text in texts for word in ("restaurant", "pub ", "bistro", "coffee shop"))
    assert list(descriptions(1000, seed=1)) == texts != list(descriptions(1000, seed=2))
    assert len(DOMAINS) == 5


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_every_domain_describes_any_of_its_meanings(name: str) -> None:
    domain = DOMAINS[name]
    for attribute in domain.attributes:
        spoken = attribute in domain.clauses or all(
            (attribute, value) in domain.clauses for value in domain.attributes[attribute]
        )
        assert spoken or attribute in domain.required
