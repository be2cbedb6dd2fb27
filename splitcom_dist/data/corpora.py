"""Named corpora, and the user's own files, as lists of Examples."""

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from splitcom_dist.data.synthetic import restaurants
from splitcom_dist.errors import UserError

SPLITS = ("train", "validation", "test")
FILE_STEMS = {"train": "train", "validation": "valid", "test": "test"}
SUFFIXES = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz")
SYNTHETIC_MEANINGS = {"train": 600, "validation": 100, "test": 100}
TEXTS_PER_MEANING = 2
# Scripts are gone from the datasets library; the hub keeps a parquet copy of every old corpus on this branch.
HUB_REVISION = "refs/convert/parquet"
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


def load(name: str, path: str | None, split: str, *, seed: int = 0, limit: int | None = None) -> list[Example]:
    """The Examples of one split, in a stable order.

    `name` is e2e, dart, webnlg, wikitext2 (from `path`, or else the hub), jsonl (from `path`) or synthetic.
    `path` is a folder with train, valid and test files, or one file: then a tenth of its distinct sources,
    drawn with `seed`, is the validation split, the rest is train. `limit` draws that many, also with `seed`.
    Raises UserError, one line, for whatever is missing, unreadable or malformed.
    """
    _check_request(name, path, split)
    if name == "synthetic":
        # A corpus is the same for every seed, the embedded one too; seeds draw subsets of it.
        pairs = restaurants(split, SYNTHETIC_MEANINGS[split], TEXTS_PER_MEANING)
        examples = [Example(source, target) for source, target in pairs]
    elif path:
        examples = _from_path(Path(path).expanduser(), split, seed)
    else:
        examples = _from_hub(name, split)
    if limit is None:
        return examples
    return [examples[index] for index in _draw(len(examples), limit, seed)]


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


def _check_request(name: str, path: str | None, split: str) -> None:
    known = (*HUB, "jsonl", "synthetic")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"data.name={name}: no such corpus; {hint}")
    if split not in SPLITS:
        raise UserError(f"split={split}: choose one of {', '.join(SPLITS)}")
    if name == "jsonl" and not path:
        raise UserError("data.name=jsonl needs data.path: a folder with train.jsonl and valid.jsonl, or a file")
    if name == "synthetic" and path:
        raise UserError(f"data.path={path}: data.name=synthetic reads no file; set data.name=jsonl for yours")


def _draw(count: int, size: int, seed: int) -> list[int]:
    """`size` of `count` indices, ascending; a smaller draw with the same seed is part of a larger one."""
    return sorted(np.random.default_rng(seed).permutation(count)[:size].tolist())


def _from_path(path: Path, split: str, seed: int) -> list[Example]:
    try:
        if path.is_dir():
            return _read(_file_of_split(path, split))
        if not path.is_file():
            parent = next(folder for folder in path.absolute().parents if folder.is_dir())
            raise UserError(f"data.path={path}: no such file or folder; {_contents(parent)}")
    except OSError as error:
        raise UserError(f"data.path={path}: {error.strerror or error}") from None
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"data.path={path}: cannot tell what it holds; name it {', '.join(SUFFIXES)}")
    if split == "test":
        raise UserError(f"data.path={path}: one file has no test split; give a folder with test.jsonl in it")
    return _train_or_held_out(path, split, seed)


def _train_or_held_out(path: Path, split: str, seed: int) -> list[Example]:
    # Drawn by source, not by row: a source with several texts must not be on both sides.
    examples = _read(path)
    keys = [example.target if example.source is None else example.source for example in examples]
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise UserError(
            f"data.path: {path} has one distinct source or text, too few to hold any out for validation; "
            "give a folder with train.jsonl and valid.jsonl"
        )
    held_out = {distinct[index] for index in _draw(len(distinct), max(1, round(len(distinct) / 10)), seed)}
    wanted = split == "validation"
    return [example for example, key in zip(examples, keys, strict=True) if (key in held_out) is wanted]


def _file_of_split(folder: Path, split: str) -> Path:
    names = [FILE_STEMS[split] + suffix for suffix in SUFFIXES]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        hint = "; or name the train file itself: a tenth is held out" if split == "validation" else ""
        raise UserError(
            f"data.path={folder}: no {split} file; looked for {', '.join(names)}; {_contents(folder)}{hint}"
        )
    if len(found) > 1:
        raise UserError(f"data.path={folder}: both {found[0].name} and {found[1].name} are there; keep one")
    return found[0]


def _contents(folder: Path, most: int = 8) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{folder} holds {', '.join(names[:most]) or 'nothing'}{more}"


def _read(file: Path) -> list[Example]:
    if ".jsonl" in file.suffixes:
        numbered = enumerate(_lines(file), 1)
        examples = [_parse(line, f"data.path: {file} line {n}") for n, line in numbered if line.strip()]
    else:
        examples = articles(list(_lines(file)))
    if not examples:
        raise UserError(f"data.path: {file} is empty: put text into it or name another file")
    return examples


def _lines(file: Path) -> Iterator[str]:
    number = 1
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb") as stream:
            for number, line in enumerate(stream, 1):
                # Editors on Windows put a byte order mark before the first line.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise UserError(f"data.path: {file} line {number} is not UTF-8 ({reason}): save it so") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"data.path: {file} cannot be read ({error}): copy or download it again") from None


def _parse(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{where} is not valid JSON ({reason}): mend or remove that line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object: each line needs source and target, or text")
    plain = "text" in row and "target" not in row
    target = _field(row, "text" if plain else "target", where)
    if not target.strip():
        raise UserError(f"{where} has an empty target: fill it or remove that line")
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise UserError(f"{where}: references must be a list of texts")
    return Example(None if plain else _field(row, "source", where), target, tuple(references))


def _field(row: Mapping[str, Any], key: str, where: str) -> str:
    if key not in row:
        present = ", ".join(repr(name) for name in list(row)[:8]) or "none"
        raise UserError(f"{where} has no {key} (fields there: {present}): give source and target, or text")
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:  # "\ud800" is valid JSON, but no tokenizer takes it
        raise UserError(f"{where}: {key} holds half a surrogate pair: mend or remove that line") from None
    return value


Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class HubCorpus:
    """Where the hub keeps a corpus, and how its rows become Examples."""

    repository: str
    configuration: str
    read: Callable[[Rows], list[Example]]


def _e2e(rows: Rows) -> list[Example]:
    return [Example(row["meaning_representation"], row["human_reference"]) for row in rows]


def _dart(rows: Rows) -> list[Example]:
    # Relations in lower case, as the LoRA paper writes them; the table's column names are capitals.
    return [
        Example(" | ".join(f"{head} : {relation.lower()} : {tail}" for head, relation, tail in triples), text)
        for triples, texts in ((row["tripleset"], row["annotations"]["text"]) for row in rows)
        for text in texts
    ]


def _webnlg(rows: Rows) -> list[Example]:
    return [
        Example(" | ".join(triple.replace(" | ", " : ") for triple in row["input"]), text)
        for row in rows
        for text in row["references"] or [row["target"]]
    ]


def _wikitext(rows: Rows) -> list[Example]:
    return articles([row["text"].rstrip("\n") for row in rows])


# e2e is the challenge's own text here, not LoRA's tokenised form of it, and webnlg its edition of 2020.
HUB = {
    "e2e": HubCorpus("tuetschek/e2e_nlg", "default", _e2e),
    "dart": HubCorpus("Yale-LILY/dart", "default", _dart),
    "webnlg": HubCorpus("GEM/web_nlg", "en", _webnlg),
    "wikitext2": HubCorpus("Salesforce/wikitext", "wikitext-2-raw-v1", _wikitext),
}


def _from_hub(name: str, split: str) -> list[Example]:
    from datasets import load_dataset  # a second of import that only users of the hub pay
    from huggingface_hub import snapshot_download

    corpus = HUB[name]
    # All splits at once: whoever fetched one then has the others offline. Not by load_dataset: what it caches
    # of a repository's data files it does not find again offline.
    wanted = [f"{corpus.configuration}/{each}/*.parquet" for each in SPLITS]
    try:
        folder = snapshot_download(corpus.repository, repo_type="dataset", revision=HUB_REVISION, allow_patterns=wanted)
        files = f"{folder}/{corpus.configuration}/{split}/*.parquet"
        examples = corpus.read(load_dataset("parquet", data_files={split: files}, split=split))
    except Exception as error:  # the hub's clients raise a dozen unrelated types, and the mend is one
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.name={name}: no {corpus.repository} from the hub ({type(error).__name__}: {reason}); set "
            "data.path to a folder with train.jsonl and valid.jsonl, or prefetch it into HF_HOME: "
            f"hf download {corpus.repository} --repo-type dataset --revision {HUB_REVISION}"
        ) from error
    return [example for example in examples if example.target.strip()]
