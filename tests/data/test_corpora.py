"""What a user's files and the named corpora become, and what is said when they cannot be read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from splitcom_dist.data import hub
from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import SPLITS, Example, articles
from splitcom_dist.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def pairs(count: int, texts_per_source: int = 1) -> list[dict[str, Any]]:
    places = [(i, j) for i in range(count) for j in range(texts_per_source)]
    return [{"source": f"meaning {i}", "target": f"text {i} {j}"} for i, j in places]


def error_of(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_synthetic_needs_no_file_and_keeps_its_splits_apart() -> None:
    splits = [load("synthetic", None, split) for split in ("train", "validation", "test")]
    assert [len(examples) for examples in splits] == [1200, 200, 200]
    train, validation, test = ({example.source for example in examples} for examples in splits)
    assert not (train & validation or train & test or validation & test)


def test_synthetic_is_one_corpus_whatever_the_seed() -> None:
    assert load("synthetic", None, "validation", seed=1) == load("synthetic", None, "validation", seed=2)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_folder_gives_each_split_its_own_file(tmp_path: Path, suffix: str) -> None:
    for split, stem in (("train", "train"), ("validation", "valid"), ("test", "test")):
        write_rows(tmp_path / (stem + suffix), [{"source": "s", "target": split, "seen": True}])
    for split in ("train", "validation", "test"):
        assert load("e2e", str(tmp_path), split) == [Example("s", split)]


def test_text_field_is_plain_text_and_references_are_kept(tmp_path: Path) -> None:
    grouped = {"source": "s", "target": "a", "references": ["a", ""]}
    write_rows(tmp_path / "train.jsonl", [{"text": "no source"}, grouped])
    assert load("jsonl", str(tmp_path), "train") == [Example(None, "no source"), Example("s", "a", ("a", ""))]


def test_blank_lines_windows_line_ends_and_byte_order_mark_are_no_mistake(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"source": "s", "target": "caf\xc3\xa9"}\r\n\r\n{"text": "b\\u2028c"}\r\n\n'
    (tmp_path / "train.jsonl").write_bytes(content)
    assert load("jsonl", str(tmp_path), "train") == [Example("s", "café"), Example(None, "b\u2028c")]


def test_one_file_holds_out_a_tenth_that_train_does_not_have(tmp_path: Path) -> None:
    file = str(write_rows(tmp_path / "mine.jsonl.gz", pairs(60)))
    train, validation = (load("jsonl", file, split, seed=5) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (54, 6)
    assert {*train, *validation} == {Example(f"meaning {i}", f"text {i} 0") for i in range(60)}
    assert load("jsonl", file, "validation", seed=5) == validation
    assert load("jsonl", file, "validation", seed=6) != validation


def test_held_out_sources_never_occur_in_train(tmp_path: Path) -> None:
    file = str(write_rows(tmp_path / "mine.jsonl", pairs(30, texts_per_source=4)))
    train, validation = ({row.source for row in load("jsonl", file, split)} for split in SPLITS[:2])
    assert len(validation) == 3 and train.isdisjoint(validation)


def test_limit_is_a_seeded_subset_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", pairs(200))
    everything = load("jsonl", str(tmp_path), "train")
    some = load("jsonl", str(tmp_path), "train", seed=3, limit=20)
    places = [everything.index(example) for example in some]
    assert len(set(places)) == 20 and places == sorted(places)
    assert places != list(range(20))  # the E2E files are sorted by source
    assert some == load("jsonl", str(tmp_path), "train", seed=3, limit=20)
    assert some != load("jsonl", str(tmp_path), "train", seed=4, limit=20)
    assert set(some) < set(load("jsonl", str(tmp_path), "train", seed=3, limit=50))
    assert load("jsonl", str(tmp_path), "train", limit=999) == everything


WIKI = (
    " \n = First = \n \n A line of it . \n = 1 formula = \n More . \n"
    " \n = = Section = = \n \n End . \n \n = Y = \n \n Other . "
).splitlines()


def test_articles_are_not_cut_at_sections_or_formulas() -> None:
    first, second = articles(WIKI)
    assert first.source is None
    assert first.target.startswith("= First =") and first.target.endswith("End .")
    assert "= 1 formula =" in first.target and "= = Section = =" in first.target
    assert second.target == "= Y = \n \n Other ."


def test_text_without_headings_is_cut_at_blank_lines_and_text_before_one_is_kept() -> None:
    def texts(*lines: str) -> list[str]:
        return [example.target for example in articles(lines)]

    assert texts("a", "b", "", "", "c") == ["a\nb", "c"]
    assert texts("intro", "", "= T =", "", "body") == ["intro", "= T =\n\nbody"]


def test_missing_wikitext_train_file_is_named_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    (tmp_path / "test.txt.gz").write_bytes(gzip.compress(b"three\n"))
    assert len(load("wikitext2", str(tmp_path), "validation")) == 2
    message = error_of("wikitext2", str(tmp_path), "train")
    assert "train.txt.gz" in message and "holds test.txt.gz, valid.txt.gz" in message


ROW = b'{"source": "s", "target": "t"}\n'
MALFORMED = {
    "not json": (ROW * 16 + b'{"source": "s" "target": "t"}\n', "line 17 is not valid JSON (Expecting"),
    "cut line": (ROW + b'{"source": "s", "tar', "line 2 is not valid JSON"),
    "huge number": (b'{"target": ' + b"9" * 5000 + b"}\n", "line 1 is not valid JSON"),
    "deep nesting": (b"[" * 100_000 + b"\n", "line 1 is not valid JSON"),
    "not an object": (b'["s", "t"]\n', "line 1 is not an object"),
    "no target": (
        b'{"source": "s", "label": "t"}\n',
        "line 1 has no target (fields there: 'source', 'label')",
    ),
    "no source": (b'{"target": "t"}\n', "line 1 has no source"),
    "newline in a key": (b'{"a\\nb": "t"}\n', "has no target"),
    "wrong type": (b'{"source": ["s"], "target": "t"}\n', "line 1: source must be text, not list"),
    "null target": (b'{"source": "s", "target": null}\n', "line 1: target must be text, not NoneType"),
    "empty target": (ROW + b'{"source": "s", "target": " "}\n', "line 2 has an empty target"),
    "empty text": (b'{"text": ""}\n', "line 1 has an empty target"),
    "references": (b'{"source": "s", "target": "t", "references": "t"}\n', "references must be a list"),
    "half a surrogate": (b'{"source": "s", "target": "\\ud800"}\n', "line 1: target holds half a surrogate"),
    "latin-1": (ROW + b'{"source": "caf\xe9", "target": "t"}\n', "line 2 is not UTF-8"),
    "empty file": (b"", "is empty"),
    "blank file": (b"\n \n", "is empty"),
}


@pytest.mark.parametrize(("content", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    message = error_of("jsonl", str(tmp_path), "train")
    assert message.startswith(f"data.path: {tmp_path / 'train.jsonl'}")
    assert expected in message


@pytest.mark.parametrize(
    "damage",
    [lambda good: good[:-20], lambda good: b"no gzip", lambda good: good[:12] + b"\xff" * 9 + good[21:]],
    ids=["truncated", "not gzip", "corrupt"],
)
def test_damaged_gzip_is_no_shorter_corpus(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = write_rows(tmp_path / "train.jsonl.gz", pairs(100))
    file.write_bytes(damage(file.read_bytes()))
    assert f"data.path: {file} cannot be read" in error_of("jsonl", str(tmp_path), "train")


def test_missing_path_says_what_the_nearest_folder_holds(tmp_path: Path) -> None:
    write_rows(tmp_path / "trian.jsonl", pairs(2))
    message = error_of("jsonl", str(tmp_path / "deep" / "train.jsonl"), "train")
    assert "no such file or folder" in message and f"{tmp_path} holds trian.jsonl" in message


def test_folder_without_the_split_lists_a_few_of_its_files(tmp_path: Path) -> None:
    assert "holds nothing" in error_of("jsonl", str(tmp_path), "train")
    for i in range(20):
        (tmp_path / f"part{i:02}").touch()
    message = error_of("jsonl", str(tmp_path), "validation")
    assert "looked for valid.jsonl, valid.jsonl.gz" in message
    assert "part07 and 12 more" in message and "a tenth is held out" in message


def test_two_files_for_one_split_are_not_chosen_between(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", pairs(2))
    write_rows(tmp_path / "train.jsonl.gz", pairs(3))
    assert "both train.jsonl and train.jsonl.gz" in error_of("jsonl", str(tmp_path), "train")


def test_one_file_has_no_test_split_and_one_source_cannot_be_held_out(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", pairs(1, texts_per_source=5))
    assert "no test split" in error_of("jsonl", str(file), "test")
    assert "one distinct source" in error_of("jsonl", str(file), "train")
    table = write_rows(tmp_path / "mine.csv", pairs(9))
    assert "mine.csv" in error_of("jsonl", str(table), "train")


@pytest.mark.parametrize(
    ("name", "path", "split", "expected"),
    [
        ("wikitext", None, "train", "did you mean wikitext2?"),
        ("mnist", None, "train", "choose one of e2e, dart, webnlg, wikitext2, jsonl, synthetic"),
        ("e2e", None, "valid", "choose one of train, validation, test"),
        ("jsonl", None, "train", "data.name=jsonl needs data.path"),
        ("jsonl", "", "train", "data.name=jsonl needs data.path"),
        ("synthetic", "mine.jsonl", "train", "set data.name=jsonl"),
    ],
)
def test_impossible_request_names_the_key(name: str, path: str | None, split: str, expected: str) -> None:
    assert expected in error_of(name, path, split)


# The hub: a local folder stands in for the downloaded snapshot

HUB_ROWS: dict[str, list[dict[str, Any]]] = {
    "e2e": [{"meaning_representation": "name[Aromi]", "human_reference": "Aromi is a pub."}],
    "dart": [
        {
            "tripleset": [["Mars Hill", "JOINED", "1973"], ["[TABLECONTEXT]", "[TITLE]", "Schools"]],
            "annotations": {"source": ["a", "b", "c"], "text": ["It joined in 1973.", "", "1973."]},
        }
    ],
    "webnlg": [
        {"input": ["Aarhus | leader | Bundsgaard", "A | b | C"], "target": "Led by him.", "references": []},
        {"input": ["A | b | C"], "target": "one", "references": ["one", "two"]},
    ],
    "wikitext2": [{"text": line + "\n" if line.strip() else ""} for line in WIKI],
}
DART_SOURCE = "Mars Hill : joined : 1973 | [TABLECONTEXT] : [title] : Schools"
HUB_EXAMPLES = {
    "e2e": [Example("name[Aromi]", "Aromi is a pub.")],
    "dart": [Example(DART_SOURCE, "It joined in 1973."), Example(DART_SOURCE, "1973.")],
    "webnlg": [
        Example("Aarhus : leader : Bundsgaard | A : b : C", "Led by him."),
        *(Example("A : b : C", text) for text in ("one", "two")),
    ],
    "wikitext2": articles([line if line.strip() else "" for line in WIKI]),
}


def stand_in(name: str, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = hub.HUB[name]
    datasets.disable_progress_bars()

    def snapshot(repository: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (repository, repo_type, revision) == (corpus.repository, "dataset", "refs/convert/parquet")
        for pattern in allow_patterns:
            file = tmp_path / pattern.replace("*.", "0000.")
            file.parent.mkdir(parents=True)
            datasets.Dataset.from_list(rows).to_parquet(str(file))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", HUB_ROWS)
def test_hub_rows_become_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(name, HUB_ROWS[name], tmp_path, monkeypatch)
    assert load(name, None, "validation") == HUB_EXAMPLES[name]


def test_hub_rows_with_other_fields_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("e2e", [{"mr": "name[Aromi]", "ref": "Aromi is a pub."}], tmp_path, monkeypatch)
    assert "KeyError: 'meaning_representation'" in error_of("e2e", None, "train")


def test_no_network_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("cannot reach\nthe hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    message = error_of("e2e", None, "train")
    assert "(ConnectionError: cannot reach the hub)" in message
    assert "data.path" in message and "hf download tuetschek/e2e_nlg" in message


def test_a_snapshot_without_the_split_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert "hf download GEM/web_nlg" in error_of("webnlg", None, "test")


@pytest.mark.parametrize(
    ("name", "split", "examples"),
    [
        ("e2e", "validation", 4672),
        ("webnlg", "train", 18025),
        ("wikitext2", "validation", 60),
        ("wikitext2", "test", 60),
    ],
)
def test_public_files_have_their_published_counts(name: str, split: str, examples: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is absent")
    assert len(load(name, str(SHARED / name), split)) == examples
