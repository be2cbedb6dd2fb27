"""Bytes and stale error that `splitcom replay` foresees for other settings, against real runs with them.

    python benchmarks/replay.py --runs /tmp/replay  # what is there is reused

Every setting is trained with the embedded model. The logs of the first one, with its sketches and without, and those of
a plain FP16 run with sketches are replayed with all the others. Writes benchmarks/results/replay.md.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from pareto_runs import call

from splitcom_dist.replay.recording import Recording, open_recording, recording_of
from splitcom_dist.replay.report import Report, compare
from splitcom_dist.replay.settings import Choices, load_changed

RESULTS = Path(__file__).parent / "results"
COMMON = [
    "data.train_samples=180",
    "data.validation_samples=20",
    "telemetry.sketch=256",
    "train.epochs=5",
    "telemetry.progress=false",
]
COMMON += ["fed.every=5", "runtime.threads=1"]
GATED, PLAIN = "codec=splitcom_all", "codec=fp16"
CONTROL = ["control.activation.low=0.95", "control.activation.high=0.998"]


@dataclass(frozen=True)
class Case:
    """A setting, as `replay` names it and as `train` takes it."""

    name: str
    changes: tuple[str, ...]
    thetas: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()


def theta(activation: float, gradient: float) -> Case:
    links = {"up_activation": activation, "down_gradient": gradient}
    changes = tuple(f"codec.{link}.theta={value}" for link, value in links.items())
    return Case(f"theta {activation}/{gradient}", changes, thetas=(f"{activation}/{gradient}",))


CASES = [
    theta(0.98, 0.9),
    theta(0.9, 0.7),
    theta(0.95, 0.8),
    theta(0.99, 0.98),
    Case("bang_bang", ("control.name=bang_bang", *CONTROL), controllers=("bang_bang",)),
]
LOGS = ("gates, sketches", "gates, no sketches", "FP16, sketches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where run directories are kept")
    folder = parser.parse_args().runs.resolve()
    plain = open_recording(trained(folder / "fp16", [PLAIN]))
    real = {case: own(trained(folder / slug(case.name), [GATED, *case.changes])) for case in CASES}
    gated = real[CASES[0]].recording
    bare = recording_of(replace(gated.logs, sketch=gated.logs.sketch[:0]))
    replays = {
        name: {case: replayed(log, case) for case in CASES}
        for name, log in zip(LOGS, (gated, bare, plain), strict=True)
    }
    lines = [
        "# Replayed against real runs",
        "",
        "The embedded model, 180 samples, 5 epochs, 3 clients; codec splitcom_all, thetas of activations/gradients. "
        f"Replayed are the logs of {CASES[0].name}, with sketches of 256 values and without, and of a run with plain "
        "FP16. MB of a link over the whole run, and how far each replay is off; then the stale error (root mean square "
        "over all positions) of the run, and as the first replay foresees it.",
        "",
        f"| setting | link | real, MB | {' | '.join(LOGS)} | stale error | replayed |",
        f"|---|---|---:|{'---:|' * len(LOGS)}---:|---:|",
    ]
    for case in CASES:
        lines += rows(case, real[case], {name: found[case] for name, found in replays.items()})
    lines += ["", *(summary(name, found, real) for name, found in replays.items()), ""]
    lines += [
        "Losses and drift do not respond in a replay. With lower thresholds real heads train on staler gradients and "
        "activations move further: where many samples come near a threshold together, as here, bytes jump.",
        "",
    ]
    text = "\n".join(lines)
    (RESULTS / "replay.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"load {os.getloadavg()[0]:.0f}")


def trained(folder: Path, settings: list[str]) -> Path:
    is_there = (folder / "summary.json").is_file()
    if not is_there and (failed := call(["train", *COMMON, *settings, "--out", str(folder)])):
        sys.exit(f"{folder}: {failed}")
    return folder


def own(run: Path) -> Report:
    """A real run, and its stale error from its own logs."""
    return compare(open_recording(run), [])


def replayed(recording: Recording, case: Case) -> Report:
    control = [change for change in case.changes if change.startswith("control.")]
    config = load_changed(recording.logs.path, [GATED, *control])
    return compare(recording, Choices([], case.thetas, case.controllers).settings(config))


def rows(case: Case, real: Report, found: Mapping[str, Report]) -> list[str]:
    first = next(iter(found.values()))
    lines = []
    for link, size in real.recording.link_bytes.items():
        offs = [off(next(iter(report.outcomes.values())).links[link].wire_bytes, size) for report in found.values()]
        foreseen = next(iter(first.outcomes.values())).links[link].stale_error
        lines.append(
            f"| {case.name} | {link} | {size / 1e6:.2f} | {' | '.join(f'{100 * each:+.1f} %' for each in offs)} | "
            f"{real.own.links[link].stale_error:.4f} | {foreseen:.4f} |"
        )
    total = [off(next(iter(report.outcomes.values())).wire_bytes, real.wire_bytes) for report in found.values()]
    told = " | ".join(f"{100 * each:+.1f} %" for each in total)
    lines.append(f"| {case.name} | all that crosses | {real.wire_bytes / 1e6:.2f} | {told} | | |")
    return lines


def summary(name: str, found: Mapping[Case, Report], real: Mapping[Case, Report]) -> str:
    """Over the links of all settings but the log's own."""
    errors, within = [], 0
    for case, report in found.items():
        sizes = real[case].recording.link_bytes
        (outcome,), (ends,) = report.outcomes.values(), report.ranges.values()
        if real[case].recording.logs.path == report.recording.logs.path:
            continue
        for link, size in sizes.items():
            low, high = sorted(end.links[link].wire_bytes for end in ends)
            within += 0.99 * low <= size <= 1.01 * high
            errors.append(abs(off(outcome.links[link].wire_bytes, size)))
    report = next(iter(found.values()))
    return (
        f"- {name}: of a link's bytes with other settings {100 * median(errors):.1f} % off in the median, "
        f"{100 * max(errors):.1f} % at most, {within} of {len(errors)} within the range of half to double drift; with "
        f"the log's own thresholds {100 * off(report.own.wire_bytes, report.wire_bytes):+.2f} % of all bytes, by "
        f"estimates alone {100 * off(report.estimated.wire_bytes, report.wire_bytes):+.2f} %."
    )


def off(found: float, real: float) -> float:
    return found / real - 1


def slug(name: str) -> str:
    return name.replace(" ", "-").replace(",", "").replace("/", "_")


if __name__ == "__main__":
    main()
