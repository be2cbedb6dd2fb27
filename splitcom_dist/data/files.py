"""The user's own files as Examples: folders of splits, JSON Lines, plain text, also compressed."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splitcom_dist.data.examples import Example, articles, draw, scalar_fields
from splitcom_dist.errors import UserError

FILE_STEMS = {"train": "train", "validation": "valid", "test": "test"}
SUFFIXES = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz")


def from_path(path: Path, split: str, seed: int) -> list[Example]:
    """One split of a folder with a file a split, or of a single file, a tenth of which is held out. UserError."""
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
    held_out = {distinct[index] for index in draw(len(distinct), max(1, round(len(distinct) / 10)), seed)}
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
    source = None if plain else _field(row, "source", where)
    return Example(source, target, tuple(references), scalar_fields(row, "source", "target", "text"))


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
