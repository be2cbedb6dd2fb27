"""Corpora by name."""

import difflib
from pathlib import Path

from splitcom_dist.data.examples import SPLITS, Example, draw
from splitcom_dist.data.files import from_path
from splitcom_dist.data.hub import HUB, from_hub
from splitcom_dist.data.synthetic import restaurants
from splitcom_dist.errors import UserError

SYNTHETIC_MEANINGS = {"train": 600, "validation": 100, "test": 100}
TEXTS_PER_MEANING = 2


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
        examples = from_path(Path(path).expanduser(), split, seed)
    else:
        examples = from_hub(name, split)
    if limit is None:
        return examples
    return [examples[index] for index in draw(len(examples), limit, seed)]


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
