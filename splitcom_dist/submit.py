"""`splitcom train --submit`: hand the run to Slurm as slurm/train.sbatch, once its configuration has been checked."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitcom_dist.checkpoints.start import check_same_run
from splitcom_dist.config.files import shipped_folder
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError
from splitcom_dist.layout import layout_for
from splitcom_dist.run_directory import default_root

ANSWER_SECONDS = 60.0  # that sbatch may take


def script_folder() -> Path:
    """Where the batch scripts are."""
    return shipped_folder("slurm")


def submit(config: Config, settings: Sequence[str], out: Path | None, sbatch_options: str) -> int:
    """Write the script into the run directory, hand it to sbatch and print where things are; returns exit code 0.

    `settings` are the files and overrides that `config` was read from; `sbatch_options` is `key=value ...`. Raises
    UserError if there is no sbatch here, if it refuses, or if the directory holds a run of another configuration.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--submit: no sbatch on this machine's PATH; run it where Slurm's commands are")
    run = (out or default_root(config)).absolute()
    ranks = layout_for(config).world_size
    header = {"ntasks": str(ranks), "output": f"{run}/slurm/%j.log", **parse_options(sbatch_options)}
    if (run / "config.yaml").exists():
        check_same_run(config, run / "config.yaml")
    script = run / "slurm" / "train.sbatch"
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(render((script_folder() / script.name).read_text(), header))
    except OSError as error:
        raise UserError(f"{script}: cannot write: {error.strerror}") from None
    job = _sbatch([str(script), str(run), *settings])
    print(f"job     {job}, {ranks} ranks\nscript  {script}\nlog     {script.parent / job}.log")
    return 0


def parse_options(text: str) -> dict[str, str]:
    """`partition=gpu exclusive` as sbatch options without their dashes; those without a value get an empty one."""
    options = {}
    for word in shlex.split(text):
        key, _, value = word.partition("=")
        if not re.fullmatch("[a-z][a-z0-9-]+", key):
            raise UserError(f"--sbatch {word}: options are written key=value, long names without dashes: nodes=2")
        if key == "ntasks":
            raise UserError(
                "--sbatch ntasks: it follows from roles.client_ranks, roles.server_ranks and roles.server_shards"
            )
        options[key] = value
    return options


def render(script: str, header: Mapping[str, str]) -> str:
    """`script` with these options in its header: in the place of its own, else behind them."""
    lines = script.splitlines()
    for key, value in header.items():
        option = f"#SBATCH --{key}" + (f'="{value}"' if re.search(r"[\s#]", value) else f"={value}" if value else "")
        own = re.compile(rf"#SBATCH --{re.escape(key)}(=|\s|$)")
        at = [index for index, line in enumerate(lines) if own.match(line)]
        if at:
            lines[at[0]] = option
        else:
            last = max(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
            lines.insert(last + 1, option)
    return "\n".join(lines) + "\n"


def _sbatch(arguments: Sequence[str]) -> str:
    """The job's id. Its nodes find this interpreter's `splitcom` first on their PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    try:
        answer = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"--submit: sbatch gave no answer in {ANSWER_SECONDS:.0f} s: is Slurm up? (sinfo)") from None
    if answer.returncode != 0:
        raise UserError(f"--submit: sbatch refused: {' '.join(answer.stderr.split()) or answer.returncode}")
    return answer.stdout.strip().partition(";")[0]
