"""Texts that fill every batch to the same size, and models of real shapes with random weights, for measuring time."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from splitft_time import save

from splitcom_dist.data.synthetic import restaurants

SHAPES = ("tiny", "gpt2")
CHARACTERS = 8  # for a token: more than any takes in the mean
SEED = 0


def full_texts(folder: Path, rows: int, tokens: int) -> list[str]:
    """Write so many long texts; settings that cut all of them to so many input positions, nearly all with a target."""
    folder.mkdir(parents=True, exist_ok=True)
    sentences = [text for _, text in restaurants("train", 600, 2)]
    for name, count in (("train", rows), ("valid", 2)):
        texts = [_text(sentences, row, CHARACTERS * tokens) for row in range(count)]
        # With a source a text is one sample, cut off at data.max_length; without, it would be cut into several.
        lines = [json.dumps({"source": "text", "target": text}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return ["data.name=jsonl", f"data.path={folder}", f"data.max_length={tokens + 1}", "data.validation_samples=2"]


def _text(sentences: Sequence[str], start: int, characters: int) -> str:
    text = ""
    while len(text) < characters:
        text += sentences[start % len(sentences)] + " "
        start += 1
    return text


def model_folder(shape: str, scratch: Path) -> str:
    """What `model.name` is to be: the embedded model, or a folder with random weights in a model's full shape."""
    if shape == "tiny":
        return shape
    torch.manual_seed(SEED)
    return str(save(shape, scratch / shape))
