"""What a person wants to know first: quality, bytes against both baselines, time; and how the runs differ."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from splitcom_dist.analysis.report import Column, Section, Table, Value
from splitcom_dist.analysis.study import Study
from splitcom_dist.telemetry.summary import change, megabytes

MB = 1e6
DTYPES = {"float16": "FP16", "float32": "FP32"}


def overview(studies: Sequence[Study]) -> Section:
    """Always there."""
    items = [_runs(studies), _links(studies)]
    items += [_differences(studies)] if len(studies) > 1 else []
    return Section("summary", "Summary", _comparison(studies) if len(studies) > 1 else _sentence(studies[0]), items)


def details(studies: Sequence[Study]) -> Section:
    """Whole configurations, and what each rank held."""
    return Section("details", "Ranks and configuration", items=[_ranks(studies), _configuration(studies)])


def tiles_of(studies: Sequence[Study]) -> list[tuple[str, str]]:
    """The few figures of a single run that are written large."""
    if len(studies) > 1:
        return []
    (study,) = studies
    totals, dtype = study.totals, baseline_of(study)
    wire = totals.wire_bytes
    return [
        (f"{totals.first_ppl:.1f} → {totals.last_ppl:.1f}", "perplexity on held-out text, before and now"),
        (megabytes(wire), "crossed, everything counted"),
        (change(wire, totals.baseline("raw_padded_bytes")), f"against padded {dtype}"),
        (change(wire, totals.baseline("raw_real_bytes")), f"against {dtype}, real tokens only"),
        (
            f"{totals.seconds:,.1f} s",
            f"{totals.steps:,} steps, {totals.others['tokens'] / totals.seconds:,.0f} tokens/s",
        ),
    ]


def baseline_of(study: Study) -> str:
    """The data type of raw bytes, as it is written."""
    dtype = str(study.run.config.get("telemetry", {}).get("baseline_dtype", "float16"))
    return DTYPES.get(dtype, dtype)


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted keys and their values, as YAML writes them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _comparison(studies: Sequence[Study]) -> str:
    rated = [study for study in studies if study.totals.last_ppl == study.totals.last_ppl]
    if not rated:
        return f"{len(studies)} runs, none of which has been evaluated yet."
    best = min(rated, key=lambda study: study.totals.last_ppl)
    least = min(rated, key=lambda study: study.totals.wire_bytes)
    text = (
        f"Of {len(studies)} runs, “{best.run.name}” has the lowest perplexity, {best.totals.last_ppl:.2f}, with "
        f"{megabytes(best.totals.wire_bytes)} on the wire."
    )
    if least is best:
        return f"{text} None sends less."
    more = change_of(least.totals.last_ppl, best.totals.last_ppl)
    fewer = change(least.totals.wire_bytes, best.totals.wire_bytes)
    return (
        f"{text} “{least.run.name}” sends least, {megabytes(least.totals.wire_bytes)} ({fewer} against "
        f"“{best.run.name}”), at perplexity {least.totals.last_ppl:.2f} ({more})."
    )


def change_of(value: float, other: float) -> str:
    """A change in percent."""
    return f"{100 * (value / other - 1):+.1f} %"


def _sentence(study: Study) -> str:
    config = study.run.config
    parts = [f"{group} {config[group]['name']}" for group in ("data", "model", "codec", "control") if group in config]
    clients = config.get("fed", {}).get("clients", "?")
    last = "" if study.run.finished else " It has not finished: figures are those of what is logged so far."
    return f"{', '.join(parts)}; {clients} clients, {len(study.run.ranks)} ranks, {study.totals.steps:,} steps.{last}"


def _runs(studies: Sequence[Study]) -> Table:
    columns = [
        Column("run"),
        Column("state"),
        Column("codec"),
        Column("controller"),
        Column("steps", digits=0),
        Column("perplexity before", digits=2),
        Column("perplexity", digits=2),
        Column("wire", "MB", 2),
        Column("against padded", "%", 1),
        Column("against real", "%", 1),
        Column("adapters", "MB", 2),
        Column("labels", "kB", 1),
        Column("time", "s", 1),
        Column("tokens/s", digits=0),
    ]
    rows = []
    for study in studies:
        totals, config = study.totals, study.run.config
        row: list[Value] = [study.run.name, "finished" if study.run.finished else "not finished"]
        row += [str(config.get(name, {}).get("name", "")) for name in ("codec", "control")]
        row += [totals.steps, totals.first_ppl, totals.last_ppl, totals.wire_bytes / MB]
        row += [_percent(totals.wire_bytes, totals.baseline(f"raw_{name}_bytes")) for name in ("padded", "real")]
        row += [totals.others["adapter_bytes"] / MB, totals.others["label_bytes"] / 1e3]
        row += [totals.seconds, totals.others["tokens"] / totals.seconds if totals.seconds else math.nan]
        rows.append(row)
    caption = (
        "Wire bytes are all that was handed to the transport: packets with headers, masks, scales and labels, "
        "adapters, reports and verdicts, first epoch included. Baselines are the activations and gradients alone, in "
        f"{' and '.join(sorted({baseline_of(study) for study in studies}))}: padded to the longest sample, or real "
        "tokens only. Of a run that has not finished, time is what its steps took."
    )
    return Table("runs", "Runs", columns, rows, caption)


def _links(studies: Sequence[Study]) -> Table:
    columns = [Column("run"), Column("link"), Column("wire", "MB", 3), Column("raw padded", "MB", 3)]
    columns += [Column("against padded", "%", 1), Column("raw real", "MB", 3), Column("against real", "%", 1)]
    columns += [Column("wire a token", "byte", 1), *(Column(kind, "%", 1) for kind in "IPSC")]
    rows = []
    for study in studies:
        for link, counts in study.totals.links.items():
            positions = sum(counts[kind] for kind in "IPSC")
            wire, padded, real = (counts[f"{name}_bytes"] for name in ("wire", "raw_padded", "raw_real"))
            row: list[Value] = [study.run.name, link, wire / MB, padded / MB, _percent(wire, padded), real / MB]
            row += [_percent(wire, real), wire / max(1, positions)]
            rows.append([*row, *(100 * counts[kind] / max(1, positions) for kind in "IPSC")])
    caption = (
        "I, P, S, C: shares of token positions sent whole, as a change, not at all, and raw for not being finite. "
        "Labels travel with up_activation and are a part of its bytes."
    )
    return Table("links", "Links", columns, rows, caption)


def _differences(studies: Sequence[Study]) -> Table:
    settings = [flat(study.run.config) for study in studies]
    keys = sorted({key for setting in settings for key in setting})
    rows = [[key, *(setting.get(key, "-") for setting in settings)] for key in keys]
    differing = [row for row in rows if len({*row[1:]} - {"-"}) > 1]
    lacking = sum("-" in row for row in rows)
    columns = [Column("key"), *(Column(study.run.name) for study in studies)]
    same = f"{len(rows) - len(differing)} other keys are the same in all runs that have them"
    same += f"; {lacking} keys are not in all of them, as the runs are of different versions." if lacking else "."
    return Table("differences", "Where the configurations differ", columns, differing, same)


def _ranks(studies: Sequence[Study]) -> Table:
    rows: list[list[Value]] = []
    for study in studies:
        told = {int(each["name"].split()[1]): each for each in (study.run.summary or {}).get("ranks", [])}
        for rank in study.run.ranks:
            memory = told.get(rank.rank, {})
            sizes = [memory.get(name, math.nan) / MB for name in ("weights_bytes", "resident_bytes")]
            state = "closed cleanly" if rank.closed else "not closed"
            rows.append([study.run.name, rank.rank, rank.role, state, sum(rank.rows.values()), *sizes])
    columns = [Column("run"), Column("rank"), Column("role"), Column("log"), Column("rows", digits=0)]
    columns += [Column("weights held", "MB", 2), Column("resident, peak", "MB", 0)]
    return Table("ranks", "Ranks", columns, rows, "Memory is known once a run has finished.")


def _configuration(studies: Sequence[Study]) -> Table:
    settings = [flat(study.run.config) for study in studies]
    rows = [
        [key, *(setting.get(key, "-") for setting in settings)]
        for key in sorted({key for setting in settings for key in setting})
    ]
    columns = [Column("key"), *(Column(study.run.name) for study in studies)]
    return Table("configuration", "Configuration", columns, rows, folded=True)


def _percent(wire: float, baseline: float) -> float:
    return 100 * (wire / baseline - 1) if baseline else float("nan")
