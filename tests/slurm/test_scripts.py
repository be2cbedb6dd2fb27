"""The batch scripts on a real Slurm: who hears which signal, what is queued again, what runs where."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, wait_until

from splitcom_dist.submit import script_folder

pytestmark = pytest.mark.long

pytest_plugins = ("slurm_fixture",)


@dataclass(frozen=True)
class Queue:
    """Submits the scripts with the stand-in for `splitcom` on their PATH."""

    cluster: Cluster
    path: str

    def submit(self, script: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> str:
        command = ("sbatch", "--parsable", *options, script_folder() / script, *arguments)
        return self.cluster.run(*command, PATH=self.path)

    def submit_until_it_trains(self, script: str, run: Path, ranks: int, options: tuple[str, ...] = ()) -> str:
        job = self.submit(script, run, "seconds=60", options=options)
        wait_until(lambda: len(ranks_of(run)) == ranks, f"{ranks} ranks train")
        return job

    def await_end(self, job: str, state: str = "COMPLETED") -> None:
        wait_until(lambda: self.cluster.state(job) == state, f"job {job} is {state}")


@pytest.fixture
def queue(slurm: Cluster, tmp_path: Path) -> Iterator[Queue]:
    command = tmp_path / "bin" / "splitcom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stand_in.py")} "$@"\n')
    command.chmod(0o755)
    yield Queue(slurm, f"{command.parent}:{slurm.environment['PATH']}")
    slurm.clear()


def ranks_of(run: Path) -> list[dict[str, Any]]:
    """What every rank of every launch noted, in the order of launches and ranks."""
    notes = run / "ranks.jsonl"
    lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    return sorted(lines, key=lambda line: (line["RESTART_COUNT"] or "", int(line["PROCID"])))


def log_of(run: Path, job: str) -> str:
    return (run / "slurm" / f"{job}.log").read_text()


def test_a_job_told_to_stop_is_queued_again_and_goes_on(queue: Queue, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue.submit_until_it_trains("train.sbatch", run, 5)
    queue.cluster.run("scancel", "--signal=TERM", job)
    wait_until(lambda: len(ranks_of(run)) == 10, "five ranks train again")
    queue.await_end(job)
    first, again = ranks_of(run)[:5], ranks_of(run)[5:]
    assert [rank["node"] for rank in first] == ["n1", "n1", "n1", "n1", "n2"]
    assert {rank["CPUS_PER_TASK"] for rank in first} == {"4"}, "srun must be told what the header says"
    assert {rank["RESTART_COUNT"] for rank in again} == {"1"}
    assert first[0]["arguments"] == ["train", "resume=auto", "seconds=60", "--out", str(run)]
    log = log_of(run, job)
    assert "exit code 75" in log and "restart 1 " in log and "exit code 0" in log


def test_a_cancelled_job_saves_but_is_not_queued_again(queue: Queue, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue.submit_until_it_trains("train.sbatch", run, 5)
    queue.cluster.run("scancel", job)
    queue.await_end(job, "CANCELLED")
    assert len(list((run / "saved").iterdir())) == 5
    assert "exit code 75" in log_of(run, job)
    job = queue.submit("train.sbatch", run, "seconds=60")
    queue.await_end(job)
    assert len(ranks_of(run)) == 10, "the same command goes on"


def test_each_component_of_a_heterogeneous_job_takes_its_roles(queue: Queue, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue.submit_until_it_trains("train_het.sbatch", run, 5)
    assert [rank["node"] for rank in ranks_of(run)] == ["n1", "n1", "n1", "n2", "n3"]
    assert {rank["NTASKS"] for rank in ranks_of(run)} == {"5"}
    queue.cluster.run("scancel", "--signal=TERM", job)

    def again() -> bool:  # only backfill starts such jobs, and it sleeps until something happens in the cluster
        queue.cluster.run("scontrol", "update", "PartitionName=high", "State=UP")
        return len(ranks_of(run)) == 10

    wait_until(again, "five ranks train again")
    queue.await_end(job)
    assert "clients on n1, servers on n2, aggregator on n3" in log_of(run, job)


def test_every_line_of_a_sweep_is_a_run_of_its_own(queue: Queue, tmp_path: Path) -> None:
    grid, runs = tmp_path / "grid.txt", tmp_path / "runs"
    grid.write_text("train.lr=1e-3 codec=none\ntrain.lr=1e-4 codec=video\n")
    job = queue.submit("sweep.sbatch", runs, grid, "seconds=0", options=("--array=1-3",))
    wait_until(lambda: queue.cluster.state(job) == "COMPLETED FAILED", "two runs and a mistake")
    assert sorted(path.name for path in runs.iterdir()) == ["1", "2"]
    overrides = [ranks_of(runs / line)[0]["arguments"][2:-2] for line in ("1", "2")]
    assert overrides == [["seconds=0", "train.lr=1e-3", "codec=none"], ["seconds=0", "train.lr=1e-4", "codec=video"]]
    assert f"{grid} has no line 3: --array must be 1-2" in (queue.cluster.folder / f"slurm-{job}_3.out").read_text()


def test_a_stopped_run_of_a_sweep_is_queued_again_alone(queue: Queue, tmp_path: Path) -> None:
    grid, runs = tmp_path / "grid.txt", tmp_path / "runs"
    grid.write_text("seconds=0\nseconds=60\n")
    job = queue.submit("sweep.sbatch", runs, grid, options=("--array=1-2",))
    wait_until(lambda: len(ranks_of(runs / "2")) == 5, "the second run trains")
    queue.cluster.run("scancel", "--signal=TERM", f"{job}_2")
    wait_until(lambda: len(ranks_of(runs / "2")) == 10, "it trains again")
    queue.await_end(job)
    assert len(ranks_of(runs / "1")) == 5


def test_a_finished_run_is_evaluated_by_one_task(queue: Queue, tmp_path: Path) -> None:
    job = queue.submit("analyze.sbatch", tmp_path, "--split", "test")
    queue.await_end(job)
    (rank,) = ranks_of(tmp_path)
    assert rank["arguments"] == ["evaluate", str(tmp_path), "--split", "test"] and rank["CPUS_PER_TASK"] == "8"
