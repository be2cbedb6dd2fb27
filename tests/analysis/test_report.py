"""The report says what the run's own summary says, is one file, and tells mistakes in one line."""

import json
import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from logged_run import tables_of

from splitcom_dist.analysis.report import Column, Figure, Section, Table
from splitcom_dist.cli import main
from splitcom_dist.errors import UserError

pytest_plugins = ("analysis_fixtures",)


@pytest.fixture(scope="module")
def tables(report: Path) -> dict[str, list[list[Any]]]:
    return tables_of(report / "report.html")


def test_the_tables_say_what_the_summary_says(root: Path, tables: dict[str, list[list[Any]]]) -> None:
    summary = json.loads((root / "summary.json").read_text())
    links = {row[1]: row for row in tables["links"][1:] if row[0] == "one"}
    assert set(links) == set(summary["links"])
    for name, counts in summary["links"].items():
        wire, padded, against_padded, real, against_real = links[name][2:7]
        assert wire == pytest.approx(counts["wire_bytes"] / 1e6)
        assert padded == pytest.approx(counts["raw_padded_bytes"] / 1e6)
        assert real == pytest.approx(counts["raw_real_bytes"] / 1e6)
        assert against_padded == pytest.approx(100 * counts["wire_bytes"] / counts["raw_padded_bytes"] - 100)
        assert against_real == pytest.approx(100 * counts["wire_bytes"] / counts["raw_real_bytes"] - 100)
        positions = sum(counts["frames"].values())
        assert links[name][8:] == pytest.approx([100 * count / positions for count in counts["frames"].values()])
    (row,) = (row for row in tables["runs"][1:] if row[0] == "one")
    assert row[1] == "finished" and row[5:7] == [summary["untuned_ppl"], summary["ppl"]]
    wire = sum(counts["wire_bytes"] for counts in summary["links"].values())
    assert row[7] == pytest.approx((wire + summary["adapter_bytes"] + summary["control_bytes"]) / 1e6)
    assert row[12] == summary["seconds"]
    points = [row for row in tables["quality-bytes-data"][1:] if row[0] == "one"]
    assert points[-1][4] == pytest.approx(row[7]), "the curve ends where the run ended"


def test_runs_are_compared(tables: dict[str, list[list[Any]]]) -> None:
    assert [row[:2] for row in tables["runs"][1:]] == [["one", "finished"], ["two", "not finished"]]
    assert tables["differences"][1:] == [["train.lr", "0.001", "0.5"]]
    assert ["train.epochs", "20", "20"] in tables["configuration"] or len(tables["configuration"]) > 100


def test_the_report_is_one_file_that_needs_no_other(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text) and "@import" not in text and "url(http" not in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text, "texts of logs are texts"
    assert "<b>free" not in text
    assert "two: no summary.json: the run goes on or was killed" in text
    identities = re.findall(r'\bid="([^"]+)"', text)
    assert len(identities) == len(set(identities))
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    assert used <= set(identities)


def test_every_figure_is_there_as_png_and_svg_and_says_what_one_sees(report: Path) -> None:
    text = (report / "report.html").read_text()
    names = re.findall(r'<figure id="([^"]+)"', text)
    assert {path.stem for path in (report / "figures").iterdir()} == set(names)
    wanted = {"quality-bytes", "bytes-one", "similarity-one", "clients-one", "distributions-one", "samples-one-0"}
    wanted |= {"control-one", "time-one", "timeline-one", "cuts-one", "bytes-runs", "similarity-runs"}
    assert wanted <= set(names)
    for name in names:
        assert (report / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        drawing = xml.etree.ElementTree.parse(report / f"figures/{name}.svg")
        assert len(drawing.findall(".//{http://www.w3.org/2000/svg}path")) > 5
    for figure in re.findall(r"<figure .*?</figure>", text, re.DOTALL):
        assert re.search(r'role="img" aria-label="[^"]{30,}"', figure)
        assert len(re.findall(r"<figcaption>[^<]{30,}</figcaption>", figure)) == 1
        assert "var(--c0)" in figure and "#1b1f24" not in figure, "colours follow the theme"


def test_another_section_is_one_builder(tmp_path: Path, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splitcom_dist.analysis import command, contents

    figure = Figure("mine", "Mine", "What one sees.", lambda canvas: canvas.subplots().plot([1, 2]))
    table = Table("numbers", "Numbers", [Column("n", "byte")], [[1234]])
    monkeypatch.setattr(contents, "CONTENTS", [lambda studies: Section("own", "Own", "Text.", [figure, table])])
    assert command.write(tmp_path, "title", contents.sections_of([]), [], []) == 1
    text = (tmp_path / "report.html").read_text()
    assert '<section id="own">' in text and '<figure id="mine">' in text and ">1,234</td>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere: no telemetry/rank_*.h5 in it; name a directory that `splitcom train` made"),
        (["{root}", "{root}"], "one: named twice"),
        (["{root}", "--out", "/dev/null/x"], "--out /dev/null/x: Not a directory; name a folder that can be written"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *(text.format(root=root) for text in arguments)]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]


def test_logs_of_which_none_can_be_read_are_a_mistake(tmp_path: Path) -> None:
    from splitcom_dist.analysis.logs import open_run

    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry/rank_00000.h5").write_bytes(b"no log")
    with pytest.raises(UserError, match="none of its 1 logs can be read"):
        open_run(tmp_path)
