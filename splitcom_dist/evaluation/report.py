"""What an evaluation prints and writes."""

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitcom_dist.errors import UserError

PACKAGES = ("splitcom-dist", "torch", "transformers", "tokenizers", "peft", "datasets", "nltk", "sacrebleu")


def writable(out: Path | None) -> Path | None:
    """`out` if it can be written, known before minutes are spent. Raises UserError."""
    if out is None:
        return None
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}; make it first")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"{out}: cannot be written; name another file with --out")
    return out


def print_table(report: Mapping[str, Any], title: str, out: Path | None) -> None:
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


def write(out: Path, report: Mapping[str, Any], texts: Mapping[str, Sequence[str]], outputs: Sequence[str]) -> None:
    beside = out.with_name(out.stem + "_outputs.jsonl")
    report = {**report, "outputs": beside.name if outputs else None}
    out.write_text(json.dumps(report, indent=2, default=str) + "\n")
    if outputs:
        rows = (
            {"source": source, "output": output, "references": references}
            for (source, references), output in zip(texts.items(), outputs, strict=True)
        )
        beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
