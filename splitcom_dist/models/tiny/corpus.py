"""Pretraining text: files, a hub data set, and generated descriptions, each as named documents."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splitcom_dist.errors import UserError
from splitcom_dist.models.tiny.domains import descriptions


@dataclass(frozen=True)
class Source:
    """Documents of one origin; a document is one or more segments, each closed by the end-of-text mark."""

    name: str
    documents: list[tuple[str, ...]]


def from_file(path: Path) -> Source:
    """Text (a document a heading-delimited article) or JSON Lines with source and target, or text; also .gz."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode()
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            documents = [_document(json.loads(line)) for line in text.split("\n") if line.strip()]
        else:
            documents = [(article,) for article in _articles(text)]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"--text {path}: cannot be read: {type(error).__name__}: {error}") from None
    if not documents:
        raise UserError(f"--text {path}: no text in it")
    return Source(f"{path.absolute().parent.name}/{path.name.partition('.')[0]}", documents)


def from_hub(name: str) -> Source:
    """The train split of a hub data set whose rows have `text`, or `source` and `target`."""
    import datasets

    try:
        return Source(name, [_document(row) for row in datasets.load_dataset(name, split="train")])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--hub {name}: {' '.join(str(error).split())[:200]}") from None


def generated(count: int, seed: int) -> Source:
    """Descriptions of hotels, films and more, in the form in which fine-tuning data comes."""
    return Source("generated", [(source, " " + target) for source, target in descriptions(count, seed)])


def _document(row: dict[str, str]) -> tuple[str, ...]:
    return (row["text"],) if "text" in row else (row["source"], " " + row["target"])


def _articles(text: str) -> Iterator[str]:
    """Split where WikiText has a top-level heading; other text stays whole."""
    for article in re.split(r"\n(?= = [^=])", text):
        if cleaned := _untokenised(article).strip():
            yield cleaned


def _untokenised(text: str) -> str:
    """Undo the spaces that WikiText's tokeniser put around punctuation."""
    text = re.sub(r" @(.)@ ", r"\1", text).replace("<unk>", "one")
    text = re.sub(r" ([.,;:!?)\]%]|'s|n't)(?= |\n|$)", r"\1", text)
    return re.sub(r"([(\[]) ", r"\1", text)
