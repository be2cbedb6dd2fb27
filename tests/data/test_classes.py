"""Samples fall into classes by length, by label and by source, and what has none of these is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.data.classes import NO_LABEL, Classes, by_label, by_length, skew, sources
from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.data.tokens import Sample
from splitcom_dist.errors import UserError


def samples(*ids: int) -> list[Sample]:
    return [Sample(number, np.arange(4, dtype=np.int32), 1) for number in ids]


@given(st.lists(st.integers(2, 50), min_size=1, max_size=80), st.integers(1, 12))
def test_length_classes_are_even_and_in_order(lengths: list[int], count: int) -> None:
    classes = by_length(np.array(lengths), count)
    sizes = np.bincount(classes.of, minlength=len(classes.names))
    assert len(sizes) == min(count, len(lengths)) and max(sizes) - min(sizes) <= 1
    longest = [max(np.array(lengths)[classes.of == number]) for number in range(len(sizes))]
    shortest = [min(np.array(lengths)[classes.of == number]) for number in range(len(sizes))]
    assert all(high <= low for high, low in zip(longest[:-1], shortest[1:], strict=True))
    assert classes.names == [
        f"{low}" if low == high else f"{low}-{high}" for low, high in zip(shortest, longest, strict=True)
    ]


def test_labels_are_fields_of_the_rows(tmp_path: Path) -> None:
    rows = [
        {"source": "a : b : c", "target": "x", "category": "Airport", "seen": True},
        {"source": "d : e : f", "target": "y", "category": "Food", "seen": True},
        {"source": "d : e : f", "target": "z", "category": "Food", "seen": False},
        {"source": "g : h : i", "target": "w", "triples": ["not one word"]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load("jsonl", str(tmp_path), "train")
    classes = by_label(samples(3, 1, 0, 2), examples, "category")
    assert classes.names == ["Food", NO_LABEL, "Airport"] or classes.names == ["Food", "Airport", NO_LABEL]
    assert [classes.names[number] for number in classes.of] == [NO_LABEL, "Food", "Airport", "Food"]
    assert by_label(samples(0, 1, 2), examples, "seen").names == ["True", "False"]
    with pytest.raises(UserError, match=r"^data.label_field=triples: no training sample .*; there are a, category"):
        by_label(samples(0, 1), examples, "triples")


def test_labels_may_be_attributes_of_the_sources() -> None:
    examples = [Example("name : A | Type : pub", "x"), Example("Type : inn | name : B", "y"), Example("name : C", "z")]
    classes = by_label(samples(0, 1, 2), examples, "Type")
    assert [classes.names[number] for number in classes.of] == ["pub", "inn", NO_LABEL]


def test_sources_are_numbered_alike_where_they_are_alike() -> None:
    examples = [Example(source, "x") for source in "abac"]
    assert sources(samples(3, 0, 1, 2), examples).tolist() == [0, 1, 2, 1]


def test_plain_text_has_neither_labels_nor_sources() -> None:
    examples = [Example("a", "x"), Example(None, "plain")]
    for own in (samples(0, 2), samples(1)):  # blocks of plain text are numbered behind the examples, or from 0
        for key, ask in (
            ("data.label_field", lambda own=own: by_label(own, examples, "kind")),
            ("data.partition=by_source", lambda own=own: sources(own, examples)),
        ):
            with pytest.raises(UserError, match=f"^{key}: plain text has neither"):
                ask()


def test_skew_is_the_distance_from_the_whole() -> None:
    classes = Classes(np.array([0, 0, 1, 1]), ["a", "b"])
    assert skew(classes, [np.array([0, 2]), np.array([1, 3])]) == 0
    assert skew(classes, [np.array([0, 1]), np.array([2, 3])]) == 0.5
    assert skew(classes, [np.array([0]), np.array([1, 2, 3])]) == pytest.approx((0.5 + 3 * (1 / 6)) / 4)
