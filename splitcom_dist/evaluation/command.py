"""`splitcom evaluate`: perplexity of a run's adapter, or of any, and the scores of the texts it generates."""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom_dist.errors import UserError
from splitcom_dist.evaluation.report import print_table, versions, writable, write
from splitcom_dist.evaluation.subject import find_subject, settings_for, with_adapter

if TYPE_CHECKING:
    from splitcom_dist.data.examples import Example

LONGEST = 512  # tokens of a sample where no run says: the LoRA paper's sequence length for E2E, WebNLG and DART
AT_LEAST = {"limit": 1, "beams": 1, "max_new_tokens": 1, "no_repeat_ngram": 0, "batch_size": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes; the defaults of the decoding are those of metrics.generation.Decoding."""
    add = parser.add_argument
    add("target", metavar="RUN_DIR|ADAPTER", help="run directory, PEFT adapter folder, or an adapter's hub name")
    add("--data", metavar="NAME", help="e2e, dart, webnlg, wikitext2, jsonl or synthetic (default: the run's)")
    add("--data-path", metavar="PATH", help="folder with valid and test files, or a file (default: the run's)")
    add("--split", choices=("validation", "test"), default="validation")
    add("--limit", type=int, metavar="N", help="generate for N sources only, drawn with the run's seed")
    add("--model", metavar="NAME", help="base model (default: the run's, or the one the adapter names)")
    add("--beams", type=int, metavar="N", help="width of the beam search (default: 1, greedy)")
    add("--max-new-tokens", type=int, metavar="N", help="longest text in tokens (default: 64)")
    add("--length-penalty", type=float, metavar="X", help="beams: exponent of the length (default: 0.9)")
    add("--no-repeat-ngram", type=int, metavar="N", help="beams: no n-gram of this size twice, 0 is off (default: 4)")
    add("--batch-size", type=int, metavar="N", help="samples, or sources, at a time (default: the run's, or 16)")
    add("--no-generation", action="store_true", help="perplexity only")
    add("--out", type=Path, metavar="FILE.json", help="default: RUN_DIR/evaluation.json; no file for a bare adapter")


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate as the arguments say, print a table, write JSON; returns exit code 0. Raises UserError, one line."""
    started = time.perf_counter()
    for name, least in AT_LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}={value}: must be at least {least}")
    subject = find_subject(options.target)
    config = settings_for(subject, options)
    out = writable(options.out or (subject.run / "evaluation.json" if subject.run else None))
    # Imported here: torch and transformers take seconds, a misspelt path should not.
    from splitcom_dist.data.corpora import load
    from splitcom_dist.data.tokens import tokenize
    from splitcom_dist.metrics.perplexity import perplexity
    from splitcom_dist.models.sources import find_model
    from splitcom_dist.shards import check_length

    source = find_model(config.model.name)
    data, seed = config.data, config.train.seed
    if subject.run is None:
        data.max_length = min(LONGEST, source.positions)
    check_length(config, source)
    path = data.validation_path or data.path
    texts = {} if options.no_generation else _drawn(load(data.name, path, options.split, seed=seed), options, seed)
    examples = load(data.name, path, options.split, seed=seed, limit=data.validation_samples)
    tokenizer = source.tokenizer()
    samples = tokenize(examples, tokenizer, data.max_length, data.overlong).samples
    model = with_adapter(source, subject.adapter)
    # Generation first: it may find a source too long.
    scores, outputs = _generate_and_score(model, tokenizer, texts, options) if texts else ({}, [])
    batch_size = options.batch_size or config.eval.batch_size
    with _progress("perplexity", math.ceil(len(samples) / batch_size)) as advance:
        quality = perplexity(model, samples, batch_size, advance)
    report = {"ppl": quality.ppl, **asdict(quality), **scores, "seconds": time.perf_counter() - started}
    report["without_generation"] = options.no_generation
    print_table(report, f"{options.target} on {data.name}, {options.split} split", out)
    report |= {"model": source.name, "adapter": str(subject.adapter), "data": asdict(data), "seed": seed}
    report |= {"arguments": vars(options), "versions": versions()}
    if out is not None:
        write(out, report, texts, outputs)
    return 0


def references_by_source(examples: Sequence["Example"]) -> dict[str, list[str]]:
    """Every distinct source in order, with all its texts; plain texts have none and are left out."""
    texts: dict[str, list[str]] = {}
    for example in examples:
        if example.source is not None:
            texts.setdefault(example.source, []).extend(example.references or (example.target,))
    return texts


def _drawn(examples: Sequence["Example"], options: argparse.Namespace, seed: int) -> dict[str, list[str]]:
    from splitcom_dist.data.examples import draw

    texts = references_by_source(examples)
    sources = list(texts)
    return {sources[index]: texts[sources[index]] for index in draw(len(sources), options.limit or len(sources), seed)}


def _generate_and_score(
    model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]], options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """Scores by name, with what they were measured on; and one output a source."""
    from splitcom_dist.metrics.generation import Decoding, generate
    from splitcom_dist.metrics.nlg import score

    score(["known"], [["before"]])  # a library that is missing is better missed before minutes are spent
    names = ("beams", "max_new_tokens", "length_penalty", "no_repeat_ngram", "batch_size")
    decoding = Decoding(**{name: value for name in names if (value := getattr(options, name)) is not None})
    started = time.perf_counter()
    with _progress("generation", math.ceil(len(texts) / decoding.batch_size)) as advance:
        outputs = generate(model, tokenizer, list(texts), decoding, advance)
    seconds = time.perf_counter() - started
    scores = asdict(score(outputs, list(texts.values())))
    counts = {"sources": len(texts), "references": sum(map(len, texts.values()))}
    return scores | counts | {"decoding": asdict(decoding), "generation_seconds": seconds}, outputs


@contextmanager
def _progress(what: str, batches: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=batches)
        yield lambda: bar.advance(task)
