"""Corpora of the Hugging Face hub as Examples."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from splitcom_dist.data.examples import SPLITS, Example, articles, scalar_fields
from splitcom_dist.errors import UserError

# Scripts are gone from the datasets library; the hub keeps a parquet copy of every old corpus on this branch.
HUB_REVISION = "refs/convert/parquet"
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
        Example(
            " | ".join(triple.replace(" | ", " : ") for triple in row["input"]),
            text,
            fields=scalar_fields(row, "target"),
        )
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


def from_hub(name: str, split: str) -> list[Example]:
    """One split of a corpus in `HUB`; UserError says how to do without the hub if it cannot be reached."""
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
