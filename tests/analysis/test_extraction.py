"""What each part of the report shows equals the tables of the logs and the run's own summary."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from logged_run import EPOCHS, RATES, SAMPLES, STEPS, THETA, write_run

from splitcom_dist.analysis import similarity as similarity_module
from splitcom_dist.analysis.course import Cut
from splitcom_dist.analysis.groups import STEPS as BINS
from splitcom_dist.analysis.logs import Run, chunks, open_run
from splitcom_dist.analysis.similarity import COLUMNS, Similarity
from splitcom_dist.analysis.study import Study
from splitcom_dist.analysis.timing import PARTS
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.summary import COUNTS

pytest_plugins = ("analysis_fixtures",)


def table(run: Run, name: str) -> pandas.DataFrame:
    return pandas.concat([pandas.DataFrame(read(each.path, name)) for each in run.ranks], ignore_index=True)


def test_totals_are_those_of_the_summary(study: Study) -> None:
    summary, totals = study.run.summary, study.totals
    assert summary is not None
    assert set(totals.links) == set(summary["links"])
    for link, counts in summary["links"].items():
        assert totals.links[link] == {name: (counts | counts["frames"])[name] for name in COUNTS}
    assert totals.others == {name: summary[name] for name in totals.others}
    assert (totals.first_ppl, totals.last_ppl, totals.seconds) == (21.0, 18.0, summary["seconds"])
    links = sum(counts["wire_bytes"] for counts in summary["links"].values())
    assert totals.wire_bytes == links + summary["adapter_bytes"] + summary["control_bytes"]


def test_bytes_by_link_and_epoch_are_those_sent(study: Study) -> None:
    rows = table(study.run, "traffic")
    expected = rows[rows.side == 0].groupby(["link", "epoch"])[["wire", "label", "n_I", "n_P", "n_S"]].sum()
    found = study.traffic.by("link", "epoch")
    for name in expected.columns:
        assert found[name].tolist() == expected[name].tolist()
    by_client = study.traffic.by("client")
    assert by_client["wire"].tolist() == rows[rows.side == 0].groupby("client")["wire"].sum().tolist()


def test_bytes_are_apportioned_to_frame_kinds_and_sum_to_what_crossed(study: Study) -> None:
    parts = study.traffic.apportioned()
    kinds = sum(parts[kind] for kind in ("I", "P", "S", "C", "other", "label"))
    assert np.allclose(kinds, parts["wire"])
    counts = study.traffic.by("link", "epoch")
    up = parts["link"] == 0
    for kind, rate in RATES.items():
        assert parts[kind][up] == pytest.approx(rate * counts[f"n_{kind}"][up], rel=1e-4, abs=1.0)
    assert (parts["I"][~up] == parts["wire"][~up]).all(), "gradients are all sent whole"
    assert study.traffic.missed(0) < 1e-3


def test_bytes_up_to_an_evaluation(study: Study) -> None:
    rows, rounds = table(study.run, "traffic"), table(study.run, "rounds")
    sent = rows[rows.side == 0]
    for step, (wire, padded, real) in zip(
        study.traffic.evaluations["step"], study.traffic.until_evaluations(), strict=True
    ):
        before = sent[sent.step <= step]
        assert wire == before.wire.sum() + rounds[rounds.step <= step].bytes.sum()
        assert (padded, real) == (before.raw_padded.sum(), before.raw_real.sum())


def test_similarity_is_that_of_the_table(study: Study) -> None:
    rows = table(study.run, "similarity")
    moved = study.similarity
    assert moved.links == [0] and moved.epochs(0) == [1, 2] and moved.clients(0) == [0, 1]
    for epoch, of in rows.groupby("epoch"):
        for measure in ("rel_l2_p50", "rel_l2_max"):
            expected = of[measure].quantile([0.1, 0.5, 0.9], interpolation="lower").tolist()
            found = moved.histograms[measure].quantiles([0.1, 0.5, 0.9], link=0, epoch=int(str(epoch)))
            assert found == pytest.approx(expected, rel=0.25), "inverse of the distribution, few samples"
        (median,) = moved.histograms["distance"].quantiles([0.5], link=0, epoch=int(str(epoch)))
        nearest = (1 - of.cosine).sort_values().iloc[len(of) // 2 - 1]
        assert median == pytest.approx(nearest, rel=10 ** (1 / BINS) - 1 + 1e-3)
    decisions = moved.decisions()
    assert decisions["sent"].sum() == rows.sent.sum() and decisions["compared"].sum() == len(rows)


def test_the_heat_map_has_every_sample_in_its_place(study: Study) -> None:
    names, epochs, grid = study.similarity.samples.of(0)
    logged = table(study.run, "similarity")
    rows = {key: of.iloc[0] for key, of in logged.groupby(["client", "sample", "epoch"])}
    assert grid.shape == (2, 2 * STEPS * SAMPLES, EPOCHS - 1) and not study.similarity.samples.are_some(0)
    for row, (client, sample) in enumerate(zip(names["client"], names["sample"], strict=True)):
        for column, epoch in enumerate(epochs):
            seen = rows[int(client), int(sample), int(epoch)]
            assert grid[0, row, column] == pytest.approx(1 - seen.cosine, abs=1e-7)
            assert grid[1, row, column] == seen.sent
    assert names["client"].tolist() == sorted(names["client"].tolist())


def test_of_many_samples_the_same_few_are_followed_whatever_the_chunks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity_module, "SAMPLES", 5)
    found = []
    for size in (3, 1000):
        moved = Similarity()
        for rank, rows in chunks(open_run(root), "similarity", COLUMNS, size):
            moved.add(rank, rows)
        names, _, grid = moved.samples.of(0)
        assert len(names["sample"]) == 5 and moved.samples.are_some(0) and np.isfinite(grid).all()
        found.append((names["client"].tolist(), names["sample"].tolist(), grid.tolist()))
    assert found[0] == found[1]


def test_time_is_split_without_counting_any_twice(study: Study) -> None:
    spent = study.timing.spent()
    total = EPOCHS * STEPS
    client = {"compute": 0.1 - 0.035, "encode": 0.01, "send": 0.02, "wait": 0.05, "decode": 0.005}
    for rank in (0, 1):
        expected = [total * client.get(part, 0.0) for part in PARTS]
        expected[PARTS.index("average")] = EPOCHS * 0.05
        assert spent[rank][0] == pytest.approx(expected, rel=1e-5)
    server = {"compute": 0.2 - 0.07, "encode": 0.02, "send": 0.04, "wait": 0.1, "decode": 0.01}
    assert spent[2][0] == pytest.approx([total * server.get(part, 0.0) for part in PARTS], rel=1e-5)
    assert spent[3][0, PARTS.index("evaluate")] == pytest.approx(0.5 * (EPOCHS + 1))
    each = len(study.timing.window)
    assert spent[0][1:, 0].sum() == pytest.approx(each * client["compute"], rel=1e-5)


def test_a_server_that_does_not_speak_for_all_has_the_time_of_its_turns(root: Path) -> None:
    from splitcom_dist.analysis.timing import Timing

    run = open_run(root)
    timing = Timing(run, EPOCHS * STEPS)
    for rank, rows in chunks(run, "train", ("step", "client", "seconds", "wait")):
        keep = rows["client"] >= 0
        timing.add_training(rank, {name: values[keep] for name, values in rows.items()})
    assert timing.spent()[2][0, 0] == pytest.approx(EPOCHS * STEPS * 2 * 0.08, rel=1e-5)


def test_thresholds_and_cuts_are_in_order(study: Study) -> None:
    steps, thetas = study.course.thresholds(0)
    assert steps.tolist() == [-1, 3, 7, 11] and thetas.tolist() == list(THETA)
    assert study.course.cuts == [
        Cut(-1, 0, 2, "as configured"),
        Cut(-1, 1, 2, "as configured"),
        Cut(5, 1, 3, "more memory <b>free</b>"),
    ]
    assert study.course.gated == [0]


def test_a_run_killed_at_its_start_is_no_mistake(tmp_path: Path) -> None:
    from splitcom_dist.analysis.contents import sections_of
    from splitcom_dist.analysis.study import study_of
    from splitcom_dist.config.files import load_config, to_yaml
    from splitcom_dist.telemetry.hdf5 import RankLog

    (tmp_path / "telemetry").mkdir()
    log = RankLog(tmp_path / "telemetry/rank_00000.h5", rank=0, role="client", config=to_yaml(load_config([], [])))
    assert [section.name for section in sections_of([study_of(open_run(tmp_path))])] == ["summary", "details"]
    log.close()


def test_a_running_log_is_the_same_run(tmp_path: Path, study: Study) -> None:
    from splitcom_dist.analysis.study import study_of

    live = study_of(open_run(write_run(tmp_path / "live", finished=False)))
    assert live.traffic.by("link")["wire"].tolist() == study.traffic.by("link")["wire"].tolist()
    assert live.totals.seconds == pytest.approx(EPOCHS * STEPS * 0.3, rel=1e-5), "what its steps took"
