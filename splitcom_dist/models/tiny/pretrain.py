"""Pretrain the embedded model from scratch.

    python -m splitcom_dist.models.tiny.pretrain --text wikitext2/valid.txt.gz ... --out FOLDER --seconds 1800

Writes a folder that `from_pretrained` loads, with its loss curve and model card.
"""

import argparse
import csv
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from splitcom_dist.errors import UserError
from splitcom_dist.models.tiny.card import draw_losses, write_card
from splitcom_dist.models.tiny.corpus import Source, from_file, from_hub, generated
from splitcom_dist.models.tiny.tokenizer import train_tokenizer

VOCABULARY = 4096
SHAPE = {"n_embd": 192, "n_layer": 6, "n_head": 6, "n_positions": 256}  # 3.5 M parameters
HELD_OUT = 0.02  # of every source's tokens, for the validation loss
REPORT_SECONDS, SNAPSHOT_SECONDS = 30.0, 300.0


@dataclass(frozen=True)
class Stream:
    """One source as token ids, the end of it held out."""

    name: str
    train: Tensor
    held_out: Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        sources = [from_file(path) for path in options.text] + [from_hub(name) for name in options.hub]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sources.append(generated(options.generated, options.seed))
    texts = (segment for source in sources for document in source.documents for segment in document)
    tokenizer = train_tokenizer(texts, VOCABULARY)
    streams = [encode(source, tokenizer) for source in sources]
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **SHAPE,
    )
    model = transformers.GPT2LMHeadModel(config)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(options.out)
    train(model, streams, options)
    return 0


def encode(source: Source, tokenizer: transformers.PreTrainedTokenizerFast) -> Stream:
    """All documents of a source, every segment closed by the end-of-text mark, as one stream of ids."""
    segments = [segment for document in source.documents for segment in document]
    ids = tokenizer(segments)["input_ids"]
    flat = [token for segment in ids for token in (*segment, tokenizer.eos_token_id)]
    enough = 4 * SHAPE["n_positions"]
    flat *= max(1, -(-enough // len(flat)))  # too little text to hold a window out: repeat it
    cut = len(flat) - max(SHAPE["n_positions"] + 1, int(HELD_OUT * len(flat)))
    tokens = torch.from_numpy(np.asarray(flat, dtype=np.int64))
    return Stream(source.name, tokens[:cut], tokens[cut:])


def train(model: transformers.GPT2LMHeadModel, streams: list[Stream], options: argparse.Namespace) -> None:
    """AdamW under a cosine schedule over wall-clock time, so that the budget is what ends the run."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95))
    rng = np.random.default_rng(options.seed)
    shares = np.array([len(stream.train) for stream in streams], dtype=float) / sum(len(s.train) for s in streams)
    started = last_report = last_snapshot = time.monotonic()
    curve: list[dict[str, float]] = []
    step, smoothed = 0, math.log(VOCABULARY)
    while True:
        now = time.monotonic()
        progress = (now - started) / options.seconds
        if now - last_report > REPORT_SECONDS or progress >= 1 or step >= options.steps:
            last_report = now
            seen = step * options.batch * options.length
            row = {"step": step, "tokens": seen, "seconds": round(now - started), "train": round(smoothed, 4)}
            curve.append(row | held_out_losses(model, streams))
            print(curve[-1], flush=True)
        done = progress >= 1 or step >= options.steps
        if now - last_snapshot > SNAPSHOT_SECONDS or done:
            last_snapshot = now
            write(model, options, streams, curve)
        if done:
            return
        for group in optimizer.param_groups:
            group["lr"] = (
                options.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            )
        batch = draw_batch(streams, shares, options.batch, options.length, rng)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smoothed += 0.03 * (float(loss.detach()) - smoothed)
        step += 1


def draw_batch(streams: list[Stream], shares: np.ndarray, batch: int, length: int, rng: np.random.Generator) -> Tensor:
    """(batch, length) windows, from each stream in proportion to its size."""
    rows = []
    for index in rng.choice(len(streams), size=batch, p=shares):
        tokens = streams[index].train
        start = int(rng.integers(0, max(1, len(tokens) - length)))
        rows.append(tokens[start : start + length])
    return torch.stack(rows)


@torch.no_grad()
def held_out_losses(model: transformers.GPT2LMHeadModel, streams: list[Stream], windows: int = 8) -> dict[str, float]:
    """Mean loss (nats a token) on up to `windows` windows of each source's held-out end."""
    model.eval()
    losses = {}
    for stream in streams:
        length = SHAPE["n_positions"]
        count = min(windows, len(stream.held_out) // length)
        batch = stream.held_out[: count * length].view(count, length)
        losses[f"validation {stream.name}"] = round(float(model(input_ids=batch, labels=batch).loss), 4)
    model.train()
    return losses


def write(
    model: transformers.GPT2LMHeadModel,
    options: argparse.Namespace,
    streams: list[Stream],
    curve: list[dict[str, float]],
) -> None:
    """Save weights in bfloat16, and beside them the loss curve and the model card."""
    copy = transformers.GPT2LMHeadModel(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)  # written as 0600, which a shared installation could not read
    with (options.out / "loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]))
        writer.writeheader()
        writer.writerows(curve)
    draw_losses(curve, options.out / "loss.png")
    sizes = {stream.name: len(stream.train) + len(stream.held_out) for stream in streams}
    write_card(options.out / "README.md", model, options, sizes, curve)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="*", type=Path, default=[], help=".txt, .jsonl, also .gz")
    parser.add_argument("--hub", nargs="*", default=[], help="data sets by hub name")
    parser.add_argument("--generated", type=int, default=20_000, help="generated descriptions in the mix")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--steps", type=int, default=10**9, help="end after so many steps even if time is left")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of a training window")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
