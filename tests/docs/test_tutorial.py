"""The tutorial as its reader would type it: every command runs, and prints what the page shows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from console import commands, difference, run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_command_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    for name, command in (
        ("splitcom", f'{sys.executable} -m splitcom_dist "$@"'),
        ("python", f'{sys.executable} "$@"'),
    ):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\nexec {command}\n")
        script.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    folder = tmp_path / "here"
    folder.mkdir()
    differences = []
    for each in commands(PAGE):
        printed = run(each, folder, environment, seconds=900)
        if text := difference(each.output, printed):
            differences.append(f"$ {each.text}\n{text}")
    assert not differences, "\n\n".join(differences)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_installation_is_what_the_page_says(tmp_path: Path) -> None:
    """In a copy of what git tracks; needs a package index, as its reader does."""
    begin = PAGE.index("```bash\npython3 -m venv") + len("```bash\n")
    script = PAGE[begin : PAGE.index("```", begin)]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files a clone would have")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = f"{Path(sys.base_prefix) / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\nsplitcom train --dry-run | tail -n 1; which splitcom"],
        cwd=tmp_path,
        env=environment | {"PATH": python},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    if "No matching distribution" in done.stderr or "Temporary failure in name resolution" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / ".venv" / "bin" / "splitcom")
