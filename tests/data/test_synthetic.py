"""The embedded corpus: the same everywhere, splits apart, texts true to their meanings and unlike each other."""

import hashlib
import re
import subprocess
import sys

import pytest

from splitcom_dist.data.grammar import parse
from splitcom_dist.data.synthetic import RESTAURANTS, restaurants

SPLITS = ("train", "validation", "test")
CUES = {  # words that claim something of an attribute, whatever its value
    "food": r"food|cuisine|dishes|cooking|menu",
    "price": r"£|pric|cheap|expensive|inexpensive|\bcosts?\b|charge|\bpay\b",
    "customer rating": r"rated|rating|review|out of 5|think (highly|much)|liked",
    "area": r"\barea\b|district",
    "family friendly": r"famil|child|kid|adult",
    "near": r"\bnear|nearby|close|next (to|door)|not far|opposite|beside|short walk",
}


def body(source: str, text: str) -> str:
    """The text without its proper names, which may hold any word."""
    meaning = parse(source)
    for name in ("name", "near"):
        if value := meaning.get(name):
            text = re.sub(re.escape(value), "", text, flags=re.IGNORECASE)
    return text


def test_another_process_generates_the_same_texts() -> None:
    code = (
        "import hashlib; from splitcom_dist.data.synthetic import restaurants;"
        "print(hashlib.sha256(repr(restaurants('train', 50, 2, seed=7)).encode()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(repr(restaurants("train", 50, 2, seed=7)).encode()).hexdigest()


def test_another_seed_gives_other_meanings() -> None:
    assert restaurants("train", 20, 1, seed=0) != restaurants("train", 20, 1, seed=1)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_as_many_distinct_meanings_and_texts_as_asked(split: str) -> None:
    pairs = restaurants(split, 40, 3)
    assert len(pairs) == 120
    assert len({source for source, _ in pairs}) == 40


def test_no_meaning_is_in_two_splits_even_under_different_seeds() -> None:
    seen = [{s for seed in (0, 1, 2) for s, _ in restaurants(split, 1000, 1, seed)} for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_sources_parse_back_to_known_attributes_in_the_order_of_the_challenge() -> None:
    for source, _ in restaurants("train", 300, 1):
        meaning = parse(source)
        assert " | ".join(f"{name} : {value}" for name, value in meaning.items()) == source
        assert list(meaning) == [name for name in RESTAURANTS.attributes if name in meaning]
        assert all(value in RESTAURANTS.attributes[name] for name, value in meaning.items())
        assert {"name", "Type"} < set(meaning)


def test_texts_name_the_place_and_are_closed_sentences() -> None:
    for source, text in restaurants("train", 300, 2):
        assert parse(source)["name"] in text
        assert text[0].isupper()
        assert text[-1] in ".!?"
        assert not re.search(r"[{}\[\]]|  | [.,?]|\.\.", text), text


def test_no_text_claims_an_attribute_that_its_meaning_lacks() -> None:
    for source, text in restaurants("train", 1500, 2):
        said = body(source, text)
        for name in CUES.keys() - parse(source).keys():
            assert not re.search(CUES[name], said), f"{source}\n{text}\nclaims {name}"


def test_no_text_gives_an_attribute_another_value() -> None:
    for source, text in restaurants("train", 1500, 2):
        meaning, said = parse(source), body(source, text)
        for name in ("food", "area", "near"):
            for value in RESTAURANTS.attributes[name]:
                assert value == meaning.get(name) or value not in said, f"{source}\n{text}"
        assert set(re.findall(r"\d out of 5", said)) <= {meaning.get("customer rating")}


def test_texts_are_so_varied_that_they_cannot_be_learnt_by_heart() -> None:
    pairs = restaurants("train", 500, 4)
    shapes = set()
    for source, text in pairs:
        for name, value in parse(source).items():
            text = text.replace(value, name)
        shapes.add(text)
    assert len({text for _, text in pairs}) > 0.95 * len(pairs)
    assert len(shapes) > 0.75 * len(pairs)
    words = [len(text.split()) for _, text in pairs]
    assert 18 < sum(words) / len(words) < 32
