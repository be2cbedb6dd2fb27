"""The table and summary.json say the same, against both baselines, and fit a terminal."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from splitcom_dist.telemetry.progress import Lines, Live, Silent, make_progress
from splitcom_dist.telemetry.summary import RankMemory, Summary, change, megabytes, print_table, read, write

LINK = {"raw_padded_bytes": 4_000_000_000, "raw_real_bytes": 1_000_000_000, "wire_bytes": 250_000_000}
SUMMARY = Summary(
    ppl=4.5,
    untuned_ppl=17.25,
    seconds=130.0,
    tokens=260_000,
    links={
        "up_activation": LINK | {"I": 250, "P": 0, "S": 750, "C": 0},
        "down_gradient": LINK | {"wire_bytes": 1_980_000_000, "I": 1000, "P": 0, "S": 0, "C": 0},
    },
    label_bytes=1_500_000,
    adapter_bytes=8_000_000,
    control_bytes=1_000_000,
    baseline_dtype="float16",
    ranks=[RankMemory("rank 0 (client 0,3,6)", 7_000_000, 500_000_000)],
    config={"codec": {"name": "splitcom"}},
)


def printed(summary: Summary, **options: object) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"), **options)  # type: ignore[arg-type]  # noqa: SIM115
    print_table(summary, "e2e · gpt2 · codec splitcom · 3 clients", console)
    return console.export_text().splitlines()


def test_summary_round_trips_with_the_keys_of_the_contract(tmp_path: Path) -> None:
    write(SUMMARY, tmp_path / "summary.json")
    assert read(tmp_path / "summary.json") == SUMMARY
    values = json.loads((tmp_path / "summary.json").read_text())
    assert {"ppl", "seconds", "links", "adapter_bytes", "label_bytes", "config"} <= set(values)
    assert set(values["links"]["up_activation"]) == {"raw_padded_bytes", "raw_real_bytes", "wire_bytes", "frames"}
    assert values["links"]["up_activation"]["frames"] == {"I": 250, "P": 0, "S": 750, "C": 0}
    assert values["tokens_per_second"] == 2000


def test_table_fits_80_columns_and_holds_every_figure() -> None:
    lines = printed(SUMMARY)
    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines) and "…" not in text
    for figure in ("17.25 → 4.50", "2 min 10 s", "2,000 tokens/s", "padded FP16", "real FP16", "I 25.0 S 75.0 %"):
        assert figure in text
    uplink = next(line for line in lines if line.startswith("up_activation"))
    assert " ".join(uplink.split()) == "up_activation 250 MB 4,000 MB -93.8 % 1,000 MB -75.0 %"
    downlink = next(line for line in lines if line.startswith("down_gradient"))
    assert "+98.0 %" in downlink, "a wire that carries more than the baseline says so"
    total = next(line for line in lines if line.startswith("total"))
    assert "2,239 MB" in total and "8,000 MB" in total, (
        "total = links, adapters and verdicts; labels are inside the uplink"
    )


@pytest.mark.parametrize(
    ("wire", "baseline", "text"), [(25, 100, "-75.0 %"), (198, 100, "+98.0 %"), (100, 100, "+0.0 %"), (1, 0, "-")]
)
def test_changes_are_signed(wire: int, baseline: int, text: str) -> None:
    assert change(wire, baseline) == text


def test_megabytes_are_decimal() -> None:
    sizes = {1_500_000: "1.50 MB", 250_000_000: "250 MB", 2_000_000_000: "2,000 MB", 8_064: "8.1 kB", 0: "0.0 kB"}
    assert {count: megabytes(count) for count in sizes} == sizes


def test_progress_is_plain_lines_without_a_terminal() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = make_progress(True, console)
    assert isinstance(progress, Lines)
    progress.start(4, 2)
    for step in range(4):
        progress.step(step, step // 2, 3.0, 100, 5_000_000)
    progress.evaluated(1, 4.25)
    progress.close()
    lines = console.export_text().splitlines()
    assert len(lines) == 1, "one line an evaluation; steps in between only every few seconds"
    assert "epoch 2/2  perplexity 4.25  loss 3.000" in lines[0] and "5.0 MB" in lines[0]


def test_progress_is_a_bar_on_a_terminal() -> None:
    console = Console(width=120, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = make_progress(True, console)
    assert isinstance(progress, Live)
    progress.start(4, 2)
    progress.step(0, 0, 3.0, 100, 5_000_000)
    progress.evaluated(0, 9.5)
    progress.close()
    text = console.export_text()
    assert "epoch 1: perplexity 9.50" in text and "1/4" in text and "loss 3.000" in text


@pytest.mark.parametrize("wire_bytes", [5_000_000, 1_234_500_000])
def test_a_bar_fits_a_terminal_of_eighty_columns(wire_bytes: int) -> None:
    """Nothing of it is cut off, of a run of a thousand steps either."""
    console = Console(width=80, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = make_progress(True, console)
    progress.start(1200, 50)
    progress.step(599, 11, 3.0, 1, wire_bytes)
    progress.close()
    last = console.export_text().splitlines()[-1]
    assert "…" not in last and "600/1200" in last and last.rstrip().endswith("left"), last


def test_progress_can_be_off() -> None:
    assert isinstance(make_progress(False), Silent)


@pytest.mark.parametrize(("loss", "shown"), [(2.5, True), (float("nan"), False)])
def test_a_server_that_knows_no_loss_shows_none(loss: float, shown: bool) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    progress = Lines(console)
    progress.start(total_steps=2, epochs=1)
    progress.step(0, 0, loss, tokens=100, wire_bytes=1000)
    progress.evaluated(0, 12.5)
    text = console.export_text()
    assert "perplexity 12.50" in text and "nan" not in text and ("loss 2.500" in text) is shown
