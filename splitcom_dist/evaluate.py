"""`splitcom evaluate`: perplexity of a run's adapter, or of any, and the scores of the texts it generates."""

import argparse
import importlib.metadata
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom_dist.config import Config
from splitcom_dist.config_files import load_config
from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from splitcom_dist.data.examples import Example
    from splitcom_dist.models.sources import ModelSource

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LONGEST = 512  # tokens of a sample where no run says: the LoRA paper's sequence length for E2E, WebNLG and DART
AT_LEAST = {"limit": 1, "beams": 1, "max_new_tokens": 1, "no_repeat_ngram": 0, "batch_size": 1}
PACKAGES = ("splitcom-dist", "torch", "transformers", "tokenizers", "peft", "datasets", "nltk", "sacrebleu")


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
    config = _settings(subject, options)
    out = _writable(options.out or (subject.run / "evaluation.json" if subject.run else None))
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
    model = _with_adapter(source, subject.adapter)
    # Generation first: it may find a source too long.
    scores, outputs = _generate_and_score(model, tokenizer, texts, options) if texts else ({}, [])
    batch_size = options.batch_size or config.eval.batch_size
    with _progress("perplexity", math.ceil(len(samples) / batch_size)) as advance:
        quality = perplexity(model, samples, batch_size, advance)
    report = {"ppl": quality.ppl, **asdict(quality), **scores, "seconds": time.perf_counter() - started}
    report["without_generation"] = options.no_generation
    _print_table(report, f"{options.target} on {data.name}, {options.split} split", out)
    report |= {"model": source.name, "adapter": str(subject.adapter), "data": asdict(data), "seed": seed}
    report |= {"arguments": vars(options), "versions": _versions()}
    if out is not None:
        _write(out, report, texts, outputs)
    return 0


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the folder of an adapter, the base it names, and the run it comes from, if any."""

    adapter: Path
    base: str | None
    run: Path | None


def find_subject(target: str) -> Subject:
    """The adapter of a run directory, its `adapter/`, another PEFT folder or a hub name. Raises UserError."""
    folder = Path(target).expanduser()
    if not folder.is_dir():
        folder = _from_hub(target)
    run = next((each for each in (folder, folder.parent) if _is_run(each, folder)), None)
    adapter = run / "adapter" if run else folder
    settings_file = adapter / "adapter_config.json"
    if not settings_file.is_file():
        mend = "the run has not finished its training" if run else "name a run directory or the folder of an adapter"
        raise UserError(f"{target}: no adapter_config.json in {adapter}; {mend}")
    if not any((adapter / name).is_file() for name in WEIGHTS):
        raise UserError(f"{target}: {adapter} has no {WEIGHTS[0]}; copy or download the adapter again")
    try:
        base = json.loads(settings_file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{settings_file}: not an adapter's settings ({' '.join(str(error).split())})") from None
    return Subject(adapter, base, run)


def _is_run(candidate: Path, folder: Path) -> bool:
    return (candidate / "config.yaml").is_file() and folder in (candidate, candidate / "adapter")


def _from_hub(target: str) -> Path:
    owner, _, name = target.partition("/")
    if not name or "/" in name or Path(owner).is_dir() or target.startswith((".", "~", "/")) or Path(target).exists():
        raise UserError(f"{target}: no such folder; name a run directory, the folder of an adapter or OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(target, allow_patterns=["adapter_*"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{target}: neither a folder nor an adapter to be had from the hub ({type(error).__name__}); "
            "download it where there is network, then name the folder"
        ) from None


def _settings(subject: Subject, options: argparse.Namespace) -> Config:
    """The run's configuration with the arguments applied; other data than the run's own is taken whole."""
    config = load_config([subject.run / "config.yaml"]) if subject.run else Config()
    data = config.data
    name = options.data or (data.name if subject.run else None)
    if name is None:
        raise UserError(f"{options.target} is no run directory: say with --data what to evaluate it on")
    path = options.data_path or (data.path if name == data.name else None)
    if subject.run is None or (name, path) != (data.name, data.path):
        config.data = replace(data, name=name, path=path, validation_path=None, validation_samples=None)
    elif options.split != "validation":
        config.data = replace(data, validation_samples=None)
    base = options.model or (config.model.name if subject.run else subject.base)
    if not base:
        raise UserError(f"{subject.adapter}/adapter_config.json names no base model: say which with --model")
    config.model.name = base
    return config


def _writable(out: Path | None) -> Path | None:
    """`out` if it can be written, known before minutes are spent. Raises UserError."""
    if out is None:
        return None
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}; make it first")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"{out}: cannot be written; name another file with --out")
    return out


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


def _with_adapter(source: "ModelSource", adapter: Path) -> Any:
    """The whole base model in float32 with the adapter in its layers. Raises UserError."""
    import peft
    import torch
    from safetensors import SafetensorError

    from splitcom_dist.models.split import load_part, whole

    base = load_part(source, whole(source.block_count), torch.float32)
    try:
        with warnings.catch_warnings():
            # An adapter of fewer layers than the base has would leave the others as peft initialises them.
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
            warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
            tuned = peft.PeftModel.from_pretrained(base, adapter)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, UserWarning, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{adapter} does not fit {source.name} (another base: --model): {reason}") from None
    if tuned.active_peft_config.is_prompt_learning:
        raise UserError(f"{adapter}: {tuned.active_peft_config.peft_type} changes the prompt; only adapters in layers")
    return tuned.base_model.model


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


def _print_table(report: Mapping[str, Any], title: str, out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", title=title, title_justify="left")
    columns = {"perplexity": "ppl", "BLEU": "bleu", "NIST": "nist", "METEOR": "meteor"}
    columns |= {"ROUGE-L": "rouge_l", "CIDEr": "cider"}
    shown = {header: report[key] for header, key in columns.items() if key in report}
    for header in shown:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_row(*("-" if value is None else f"{value:.4g}" for value in shown.values()))
    notes = [f"perplexity of {report['targets']:,} tokens in {report['samples']:,} samples"]
    if "sources" in report:
        beams = report["decoding"]["beams"]
        how = "greedy" if beams == 1 else f"{beams} beams"
        notes.append(f"scores of {report['sources']:,} texts, {how}, against {report['references']:,} references")
        notes.append(f"METEOR is {report['meteor_variant']}")
    elif not report["without_generation"]:
        notes.append("no scores: these are plain texts, without sources to generate from")
    notes.append(f"{report['seconds']:.1f} s in all")
    console = Console()
    console.print(table)
    console.print("\n".join(notes), style="dim", highlight=False)
    if out is not None:
        console.print(str(out), style="dim", soft_wrap=True)


def _write(out: Path, report: Mapping[str, Any], texts: Mapping[str, Sequence[str]], outputs: Sequence[str]) -> None:
    beside = out.with_name(out.stem + "_outputs.jsonl")
    report = {**report, "outputs": beside.name if outputs else None}
    out.write_text(json.dumps(report, indent=2, default=str) + "\n")
    if outputs:
        rows = (
            {"source": source, "output": output, "references": references}
            for (source, references), output in zip(texts.items(), outputs, strict=True)
        )
        beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
