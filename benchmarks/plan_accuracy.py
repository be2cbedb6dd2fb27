"""Step time as `splitcom plan` predicts it from a profile, against what the run then takes, over emulated links.

    python benchmarks/plan_accuracy.py --runs /tmp/accuracy  # what is there is reused

Every setting is profiled and trained right after, several times, with links that runtime.link slows; seconds of a step
are the client ranks' own, with averagings, without evaluations and the first round. Goal: median error below 10 %,
worst below 25 %. On a machine that others use, start it with `nice -n -10`: load that comes between a profile and its
run is foreseen by nobody. The same is foreseen once more from the run's own logs (`splitcom profile --from`). Writes
benchmarks/results/plan_accuracy.md.
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from pareto_runs import ROOT, call

from splitcom_dist.config.files import load_config
from splitcom_dist.plan.cluster import read as read_profile
from splitcom_dist.planning.estimate import Estimate, estimate
from splitcom_dist.planning.setting import Choice, open_setting
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.summary import read as read_summary

ROUND = 4  # steps; the first one is left out
RESULTS = Path(__file__).parent / "results"
EXPERIMENT = str(ROOT / "configs" / "experiment" / "demo.yaml")
COMMON = ["runtime.threads=1", "telemetry.progress=false", "data.validation_samples=4", "train.epochs=1"]
COMMON += [f"fed.every={ROUND}"]


@dataclass(frozen=True)
class Case:
    """Links in Mbit/s and milliseconds; client ranks, and logical clients on them."""

    up: float
    down: float
    delay: float
    ranks: int
    clients: int
    cut: int
    codec: str
    steps: int = 12
    batch: int = 8

    @property
    def settings(self) -> list[str]:
        link = [f"runtime.link.up_mbit={self.up}", f"runtime.link.down_mbit={self.down}"]
        roles = [f"roles.client_ranks={self.ranks}", f"fed.clients={self.clients}", f"train.batch_size={self.batch}"]
        samples = [f"data.train_samples={self.steps * self.batch * self.clients}"]
        return [f"codec={self.codec}", *COMMON, *link, f"runtime.link.delay_ms={self.delay}", *roles, *samples]

    @property
    def name(self) -> str:
        return f"{self.up:g}-{self.down:g}-{self.delay:g}-{self.ranks}x{self.clients}-cut{self.cut}-{self.codec}"


CASES = [
    Case(2, 10, 20, 1, 1, 2, "none"),
    Case(5, 25, 40, 1, 1, 1, "none"),
    Case(5, 5, 10, 1, 2, 3, "fp16"),
    Case(1, 4, 50, 1, 1, 2, "int8"),
    Case(4, 20, 20, 2, 2, 2, "none"),
    Case(2, 4, 30, 2, 4, 4, "fp16"),
    Case(1, 2, 10, 3, 3, 1, "int8"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where profiles and run directories are kept")
    parser.add_argument("--repeats", type=int, default=1, help="profiles and runs of each setting")
    parser.add_argument("--only", help="settings whose name has this, printed and not written")
    options = parser.parse_args()
    lines = [
        "# Predicted against measured step time",
        "",
        "The embedded model, profile and run one after the other, links slowed by runtime.link. Measured is the mean "
        "of steps and averagings after the first round, beside it their median. Load is that of the machine right "
        "after the run, by others too. Memory is the largest of the client ranks: predicted, and resident peak. From "
        "logs is what a profile of the run's own logs predicts: how well they are taken apart and put together again.",
        "",
        "| up / down, Mbit/s | delay, ms | client ranks x clients | cut | codec | predicted, s | measured, s | error | "
        "median, s | from logs, s | error | bytes, error | client memory, MB | load |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    errors, from_logs = [], []
    for case in CASES:
        if options.only and options.only not in case.name:
            continue
        for repeat in range(options.repeats):
            folder = options.runs.resolve() / f"{case.name}-{repeat}"
            (found, logged), (middle, seconds), load = measure(case, folder)
            summary = read_summary(folder / "run" / "summary.json")
            errors.append(found.step_seconds / seconds - 1)
            own = "refused | "
            if logged is not None:
                from_logs.append(logged.step_seconds / seconds - 1)
                own = f"{logged.step_seconds:.3f} | {100 * from_logs[-1]:+.1f} %"
            crossed = sum(link["wire_bytes"] for link in summary.links.values()) + summary.adapter_bytes
            assert found.client_memory is not None
            peak = max(rank.resident_bytes for rank in summary.ranks if "client" in rank.name)
            lines.append(
                f"| {case.up:g} / {case.down:g} | {case.delay:g} | {case.ranks} x {case.clients} | {case.cut} | "
                f"{case.codec} | {found.step_seconds:.3f} | {seconds:.3f} | {100 * errors[-1]:+.1f} % | {middle:.3f} | "
                f"{own} | {100 * (found.bytes / crossed - 1):+.2f} % | {found.client_memory / 1e6:.0f}, measured "
                f"{peak / 1e6:.0f} | {load:.0f} |"
            )
            print(lines[-1], flush=True)
    if options.only:
        return
    sizes, logged_sizes = ([abs(error) for error in each] for each in (errors, from_logs))
    lines += [
        "",
        f"Median error {100 * median(sizes):.1f} %, worst {100 * max(sizes):.1f} %; from the run's own logs "
        f"{100 * median(logged_sizes):.1f} % and {100 * max(logged_sizes):.1f} %; "
        f"{len(os.sched_getaffinity(0))} cores, processes at niceness {os.nice(0)}.",
        "",
    ]
    (RESULTS / "plan_accuracy.md").write_text("\n".join(lines), encoding="utf-8")
    print(lines[-2])


def measure(case: Case, folder: Path) -> tuple[tuple[Estimate, Estimate | None], tuple[float, float], float]:
    """The estimates from the profile and from the run's logs (None where they tell too little), the measured seconds of
    a step (median, mean), and the load of the machine after the run."""
    profile, logged, run, told = folder / "profile.json", folder / "logged.json", folder / "run", folder / "load"
    settings = [EXPERIMENT, *case.settings]
    if not (run / "summary.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cut = f"model.cut_layer={case.cut}"
        for command in (["profile", *settings, "--out", str(profile)], ["train", *settings, cut, "--out", str(run)]):
            if failed := call(command):
                sys.exit(f"{folder}: {failed}")
        told.write_text(str(os.getloadavg()[0]))
    refused = call(["profile", "--from", str(run), "--out", str(logged)])
    if refused:
        print(f"{folder}: {refused}", flush=True)
    config = load_config([EXPERIMENT], case.settings)
    assert read_profile(profile).samples == case.batch
    choice = Choice(case.cut, config.lora.rank, case.codec)
    found = estimate(open_setting(config, profile), choice)
    own = None if refused else estimate(open_setting(config, logged), choice)
    return (found, own), measured(run, case), float(told.read_text())


def measured(run: Path, case: Case) -> tuple[float, float]:
    """Seconds of a step after the first round, in which every rank touches its memory for the first time: median and
    mean of the slowest client rank's turns with their waits, and its share of an averaging."""
    medians, means = [], []
    for rank in range(case.ranks):
        log = run / "telemetry" / f"rank_{rank:05d}.h5"
        turns, rounds = read(log, "train"), read(log, "rounds")
        each = np.bincount(turns["step"], weights=turns["seconds"].astype(float) + turns["wait"])[ROUND:]
        averaging = rounds["seconds"][rounds["step"] >= ROUND].astype(float) / ROUND
        medians.append(float(np.median(each) + np.median(averaging)))
        means.append(float(np.mean(each) + np.mean(averaging)))
    return max(medians), max(means)


if __name__ == "__main__":
    main()
