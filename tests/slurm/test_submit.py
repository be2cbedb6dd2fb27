"""`splitcom train --submit`: mistakes end at the terminal; on a real Slurm a driven-out run comes back and finishes."""

import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_command
from safetensors.torch import load_file
from slurm_cluster import Cluster, wait_until

from splitcom_dist.config.files import preset_folder
from splitcom_dist.submit import parse_options, render, script_folder

pytest_plugins = ("slurm_fixture",)

DEMO = preset_folder() / "experiment" / "demo.yaml"
SMALL = {
    "data.train_samples": 24,
    "data.validation_samples": 6,
    "roles.client_ranks": 1,
    "fed.clients": 1,
    "train.epochs": 4,
    "train.batch_size": 4,
    "runtime.threads": 1,
    "runtime.timeout_seconds": 60,
}
RUN = ["train", str(DEMO), *(f"{key}={value}" for key, value in SMALL.items())]
Fake = Callable[[str], dict[str, str]]


@pytest.fixture
def fake_sbatch(tmp_path: Path) -> Fake:
    """Puts a shell script in the place of sbatch; returns the environment in which it is found."""

    def make(script: str) -> dict[str, str]:
        command = tmp_path / "bin" / "sbatch"
        command.parent.mkdir()
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        return {"PATH": f"{command.parent}:/usr/bin:/bin"}

    return make


def test_a_misspelt_key_fails_at_the_terminal(fake_sbatch: Fake, tmp_path: Path) -> None:
    environment = fake_sbatch(f"touch {tmp_path}/queued; echo 1")
    outcome = run_command([*RUN, "train.lrr=1", "--submit", "--out", str(tmp_path / "run")], environment=environment)
    assert outcome.code == 2 and "unknown key train.lrr; did you mean train.lr?" in outcome.stderr
    assert not (tmp_path / "queued").exists() and not (tmp_path / "run").exists()


def test_without_sbatch_one_line_says_so(tmp_path: Path) -> None:
    outcome = run_command([*RUN, "--submit", "--out", str(tmp_path / "run")], environment={"PATH": str(tmp_path)})
    assert outcome.code == 2 and outcome.stderr.count("\n") == 1 and "no sbatch" in outcome.stderr


def test_what_sbatch_says_is_passed_on(fake_sbatch: Fake, tmp_path: Path) -> None:
    environment = fake_sbatch("echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    outcome = run_command([*RUN, "--submit", "--out", str(tmp_path / "run")], environment=environment)
    assert outcome.code == 2 and outcome.stderr.count("\n") == 1
    assert "sbatch refused: sbatch: error: invalid partition specified: nowhere" in outcome.stderr


def test_the_script_in_the_run_directory_has_the_run_s_own_header(fake_sbatch: Fake, tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = fake_sbatch(f'printf "%s\\n" "$@" >{tmp_path}/arguments; echo "17;somewhere"')
    options = ["--submit", "--sbatch", "partition=gpu nodes=3 exclusive", "--out", str(run)]
    outcome = run_command([*RUN, *options], environment=environment)
    script = run / "slurm" / "train.sbatch"
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.split() == ["job", "17,", "3", "ranks", "script", str(script), "log", f"{run}/slurm/17.log"]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["--parsable", str(script), str(run), *RUN[1:]]
    header = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    for line in ("--ntasks=3", "--nodes=3", "--partition=gpu", "--exclusive", f"--output={run}/slurm/%j.log"):
        assert header.count(f"#SBATCH {line}") == 1
    assert sum("--nodes" in line for line in header) == 1


@pytest.mark.parametrize("text", ["--nodes=2", "N=2", "ntasks=4"])
def test_options_that_would_be_misread_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="--sbatch"):
        parse_options(text)


def test_values_with_spaces_are_quoted() -> None:
    script = render((script_folder() / "train.sbatch").read_text(), parse_options("comment='two words'"))
    assert '\n#SBATCH --comment="two words"\n' in script


@pytest.mark.long
@pytest.mark.timeout(420)  # ranks import for half a minute where many share the cores
def test_a_run_driven_out_by_another_job_comes_back_and_ends_as_if_nothing_had_been(
    slurm: Cluster, tmp_path: Path
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    environment = slurm.environment | meeting_place()
    outcome = run_command([*RUN, "--submit", "--out", str(run), "--sbatch", "cpus-per-task=1"], environment=environment)
    assert outcome.code == 0, outcome.stderr
    job = outcome.stdout.split()[1].rstrip(",")
    log = run / "slurm" / f"{job}.log"
    wait_until((run / "metrics.jsonl").is_file, "two nodes train", 120)
    slurm.run("sbatch", "--partition=high", "--exclusive", "--nodes=3", "--output=/dev/null", "--wrap=true")
    wait_until(lambda: "exit code 75" in log.read_text(), f"it saves and gives way\n{log.read_text()}")
    assert not (run / "summary.json").exists(), "driven out in the midst of training"
    wait_until(lambda: slurm.state(job) == "COMPLETED", "it comes back and finishes", 120)
    assert "restart 0  3 ranks on n[1-2]" in log.read_text() and "restart 1  3 ranks" in log.read_text()
    assert run_command([*RUN, "--out", str(alone)]).code == 0
    mine, its = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (run, alone))
    assert mine.keys() == its.keys() and all(mine[name].equal(its[name]) for name in mine)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [-1, 5, 11, 17, 23], "each evaluation once"


def meeting_place() -> dict[str, str]:
    """Where ranks meet, as long as they do not find it out from Slurm by themselves."""
    if importlib.util.find_spec("splitcom_dist.rendezvous"):
        return {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
