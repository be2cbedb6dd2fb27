"""A real run, analyzed while it trains and when it has ended."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from conftest import run_command
from logged_run import tables_of

from splitcom_dist.analysis.logs import open_run
from splitcom_dist.analysis.study import study_of
from splitcom_dist.errors import UserError

RUN = ["data.train_samples=48", "data.validation_samples=20", "train.epochs=3", "codec=splitcom"]


def steps_logged(root: Path) -> int:
    try:
        return study_of(open_run(root)).totals.steps
    except UserError:
        return 0


@pytest.mark.long
def test_a_real_run_while_it_trains_and_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "run"
    arguments = ["train", *RUN, "--out", str(root)]
    trains = multiprocessing.get_context("fork").Process(target=run_command, args=(arguments, 200))
    trains.start()
    seen: set[int] = set()
    while trains.is_alive():
        seen.add(steps_logged(root))
        time.sleep(0.2)
    assert trains.exitcode == 0 and len(seen) > 2, "steps are seen as they come"
    assert run_command(["analyze", str(root)]).code == 0
    summary, tables = json.loads((root / "summary.json").read_text()), tables_of(root / "report.html")
    for _, link, wire, padded, _, real, *_ in tables["links"][1:]:
        counts = summary["links"][link]
        assert [wire, padded, real] == pytest.approx(
            [counts[f"{name}_bytes"] / 1e6 for name in ("wire", "raw_padded", "raw_real")]
        )
    (row,) = tables["runs"][1:]
    assert row[5:7] == pytest.approx([summary["untuned_ppl"], summary["ppl"]])
    assert max(seen) <= row[4] == study_of(open_run(root)).totals.steps
    last = tables["quality-bytes-data"][-1]
    assert last[4] == pytest.approx(row[7]), "bytes by step and bytes in all are the same"
