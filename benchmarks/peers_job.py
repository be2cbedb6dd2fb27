"""The job of benchmarks/peers.py: one model, the same texts and figures for all, in the form that each reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from splitcom_dist.config.files import load_config
from splitcom_dist.data.corpora import load
from splitcom_dist.data.examples import Example
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.sources import TINY, find_model
from splitcom_dist.shards import training_shards, validation_samples

SEED, CLIENTS, HELD_OUT = 0, 3, 72  # texts held out: whole batches for everyone
GPT2_SMALL = "gpt2"  # its shape, with random weights and the embedded model's tokenizer; nothing is downloaded


@dataclass(frozen=True)
class Job:
    """What all of them train: every client's texts once an epoch, adapters averaged after each."""

    folder: Path
    model: Path  # folder for `from_pretrained`, with tokenizer
    steps: int  # batches of every client in an epoch
    epochs: int
    batch: int  # texts
    rank: int = 8
    alpha: int = 16
    lr: float = 1e-3  # AdamW, constant, no decay, no clipping, no dropout
    max_length: int = 128  # tokens of a text

    @property
    def texts(self) -> Path:
        """`{client}/train.jsonl` and `valid.jsonl`: source and target, as text."""
        return self.folder / "texts"

    @property
    def tokens(self) -> Path:
        """`{client}.jsonl` and `valid.jsonl`: context and completion, as token ids."""
        return self.folder / "tokens"

    @property
    def shape(self) -> Any:
        return find_model(str(self.model)).config

    @property
    def cut_layer(self) -> int:
        """Three blocks at the client, which SplitLoRA's program has as a constant; half of a shallow model."""
        return min(3, int(self.shape.n_layer) // 2)

    @property
    def balanced_cut(self) -> int:
        """Blocks of the first of two stages so that both multiply about as much, the LM head counted."""
        head = self.shape.vocab_size / (12 * self.shape.n_embd)  # in blocks
        return int(min(self.shape.n_layer - 1, round((self.shape.n_layer + head) / 2)))

    @property
    def epoch_tokens(self) -> int:
        """Input positions of all clients' texts, padding not counted; every method reads them once an epoch."""
        rows = (row for client in range(CLIENTS) for row in read_tokens(self.tokens / f"{client}.jsonl"))
        return sum(len(row["context"]) + len(row["completion"]) - 1 for row in rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest text, held-out ones included."""
        rows = (row for path in self.tokens.glob("*.jsonl") for row in read_tokens(path))
        return max(len(row["context"]) + len(row["completion"]) for row in rows)


def read_tokens(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(folder: Path, model: str, steps: int, epochs: int, batch: int, e2e: Path | None) -> Job:
    """Write model and data under `folder`. Raises UserError, one line, for a model or corpus that is not there."""
    job = Job(folder, _model(folder, model), steps, epochs, batch)
    name, path = ("e2e", str(e2e)) if e2e else ("synthetic", None)
    each = steps * job.batch
    train = load(name, path, "train", seed=SEED, limit=CLIENTS * each)
    if len(train) < CLIENTS * each:
        raise SystemExit(f"the corpus has {len(train)} texts, {CLIENTS * each} are needed: give fewer --steps")
    parts = {f"{client}/train": train[client * each : (client + 1) * each] for client in range(CLIENTS)}
    for part, examples in (parts | {"valid": load(name, path, "validation", seed=SEED, limit=HELD_OUT)}).items():
        _write(job.texts / f"{part}.jsonl", [_text(example) for example in examples])
    config = load_config([], [*data_settings(job), f"data.max_length={job.max_length}", f"fed.clients={CLIENTS}"])
    tokenizer = find_model(str(job.model)).tokenizer()
    shards: dict[Any, list[Sample]] = dict(training_shards(config, tokenizer, range(CLIENTS)))
    for part, samples in (shards | {"valid": validation_samples(config, tokenizer)}).items():
        _write(job.tokens / f"{part}.jsonl", [_ids(sample) for sample in samples])
    return job


def data_settings(job: Job) -> list[str]:
    """Overrides that make this project read the texts."""
    return ["data.name=jsonl", f"data.path={job.texts}/{{client}}", f"data.validation_path={job.texts}"]


def _model(folder: Path, model: str) -> Path:
    if model != GPT2_SMALL:
        return find_model(model).folder
    torch.manual_seed(SEED)
    rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=0, eos_token_id=0, **rates))
    made.save_pretrained(folder / "model")
    cast(Any, transformers.AutoTokenizer).from_pretrained(TINY).save_pretrained(folder / "model")
    return folder / "model"


def _text(example: Example) -> dict[str, Any]:
    return {"source": example.source, "target": example.target}


def _ids(sample: Sample) -> dict[str, Any]:
    ids = sample.tokens.tolist()
    return {"context": ids[: sample.target_start], "completion": ids[sample.target_start :]}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
