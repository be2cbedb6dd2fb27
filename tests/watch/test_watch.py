"""What `splitcom watch` shows of a run: while it goes on, when it ends, on a terminal and on a pipe."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from splitcom_dist.cli import main
from splitcom_dist.config.files import to_yaml
from splitcom_dist.config.schema import Config, RolesConfig, TrainConfig
from splitcom_dist.layout import layout_for
from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.watch.picture import Picture
from splitcom_dist.watch.screen import curve, frame, line

CONFIG = Config(roles=RolesConfig(client_ranks=2), train=TrainConfig(epochs=2))
STEPS = 10


class Run:
    """A run of two clients, as its ranks would log it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "telemetry").mkdir(parents=True)
        (root / "log").mkdir()
        (root / "config.yaml").write_text(to_yaml(CONFIG))
        (root / "log" / "rank_00002.log").write_text(f"INFO: steps 0 to {STEPS - 1}, shards of (3, 3) samples\n")
        layout = layout_for(CONFIG)
        self.logs = [
            RankLog(root / "telemetry" / f"rank_{rank:05d}.h5", rank=rank, role=layout.role_of(rank), config="")
            for rank in range(layout.world_size)
        ]
        self.wire = 0
        for rank in range(2):
            self.logs[rank].also_keep(self.totals)
        self.logs[3].append("eval", **self.evaluation(-1, 200.0))
        self.flush()

    def totals(self) -> np.ndarray:
        """Of each client: half of the padded baseline has been sent, all of it up."""
        return np.array([2 * self.wire, self.wire, self.wire, 3, 0, 1, 0, *[0] * 21, 0, 500, 0, 0])

    @staticmethod
    def evaluation(step: int, ppl: float) -> dict[str, float | str]:
        more: dict[str, float | str] = {"split": "validation", "samples": 1, "tokens": 1, "seconds": 1.0}
        return {"step": step, "epoch": step // 5, "loss": float(np.log(ppl)), "ppl": ppl, **more}

    def train(self, step: int) -> None:
        row = {"step": step, "epoch": step // 5, "tokens": 100, "target_tokens": 50, "lr": 0.1}
        for client in range(2):
            self.logs[client].append("train", client=client, loss=np.nan, seconds=0.5, wait=0.5, **row)
            packet = dict.fromkeys(("n_P", "n_S", "n_C", "label", "t_encode", "t_send", "t_decode"), 0)
            packet |= {"raw_padded": 2000, "raw_real": 1500, "wire": 1000, "n_I": 3, "tokens": 100}
            self.logs[client].append("traffic", step=step, epoch=step // 5, client=client, link=0, side=0, **packet)
        self.wire += 1_000_000
        self.logs[2].append("train", client=-1, loss=5.0 - step / 10, seconds=0.4, wait=0.1, **row)
        self.logs[3].append(
            "rounds", step=step, epoch=0, participants=2, weight=1.0, bytes=10, seconds=0.0, movement=0.1
        )
        self.flush()

    def flush(self) -> None:
        for log in self.logs:
            log.flush()

    def finish(self) -> None:
        for log in self.logs:
            log.close()
        (self.root / "summary.json").write_text(json.dumps({}))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def shown(picture: Picture, width: int = 80, now: float | None = None) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(frame(picture, time.time() if now is None else now))
    return console.export_text()


def test_the_frame_holds_every_figure_in_80_columns(run: Run) -> None:
    for step in range(6):
        run.train(step)
    run.logs[3].append("eval", **run.evaluation(4, 150.0))
    told = {"step": 4, "epoch": 0, "link": 0, "theta": 0.975, "controller": "bang_bang", "reason": "it fell"}
    run.logs[3].append("threshold", state="{}", **told)
    run.flush()
    picture = Picture(run.root)
    picture.poll()
    text = shown(picture)
    assert all(len(row) <= 80 for row in text.splitlines())
    for figure in ("step 6/10", "epoch 2/2", "loss 4.750", "perplexity 200.00 → 150.00", "200 tokens/s", "left 0:02"):
        assert figure in text
    rows = [" ".join(row.split()) for row in text.splitlines()]
    assert "up_activation 12.00 MB 24.00 MB -50.0 % 12.00 MB +0.0 %" in rows and "I 75.0 S 25.0 %" in rows
    assert "up_activation 0.9750 bang_bang it fell" in rows
    assert sum("alive" in row for row in rows) == 4
    assert next(row for row in rows if row.startswith("rank 1 (client 1)")).split()[4:6] == ["alive", "6"]


def test_only_new_rows_are_read_and_a_resumed_run_begins_anew(run: Run) -> None:
    picture = Picture(run.root)
    run.train(0)
    picture.poll()
    assert len(picture.news[2]["train"]) == 1
    run.train(1)
    picture.poll()
    assert picture.news[2]["train"]["step"].tolist() == [1] and picture.step == 1 and len(picture.losses) == 2
    path = run.logs[2].path
    RankLog(path, rank=2, role="server", config="", kept={"train": 1}).close()
    picture.poll()
    assert picture.began_anew and picture.step == 0 and len(picture.losses) == 1


def test_a_lost_rank_a_silent_one_and_one_that_is_back(run: Run) -> None:
    run.train(0)
    run.logs[2].append("events", time=1.0, step=1, kind="lost", text="rank 0 (client 0) is gone")
    run.logs[2].append("events", time=2.0, step=1, kind="lost", text="rank 1 (client 1) gave no sign of life for 9 s")
    run.logs[2].append("events", time=3.0, step=2, kind="back", text="rank 1 (client 1)")
    run.flush()
    picture, now = Picture(run.root), time.time()
    picture.poll()
    assert [picture.state_of(rank, now) for rank in range(4)] == ["lost", "alive", "alive", "alive"]
    assert picture.state_of(1, now + 60) == "silent"
    assert picture.ending(now) is None and picture.ending(now + 10_000) == "dead"
    assert "back: rank 1 (client 1)" in shown(picture)


def test_losses_of_the_u_shape_are_those_of_the_clients(run: Run) -> None:
    row = {"step": 0, "epoch": 0, "tokens": 9, "lr": 0.1, "seconds": 1.0, "wait": 0.0}
    run.logs[2].append("train", client=-1, loss=np.nan, target_tokens=40, **row)
    for client, (loss, targets) in enumerate(((2.0, 30), (4.0, 10))):
        run.logs[client].append("train", client=client, loss=loss, target_tokens=targets, **row)
    run.flush()
    picture = Picture(run.root)
    picture.poll()
    assert picture.losses == [2.5]


def test_ranks_that_are_not_there_yet_are_waited_for(run: Run) -> None:
    for path in (run.root / "telemetry").iterdir():
        path.unlink()
    picture = Picture(run.root)
    picture.poll()
    assert shown(picture).count("waiting") == 4 and picture.ending() is None and "step 0/10" in line(picture)


def test_a_damaged_log_is_told_and_the_others_are_shown(run: Run) -> None:
    run.train(0)
    os.truncate(run.logs[0].path, 3000)
    picture = Picture(run.root)
    picture.poll()
    assert picture.state_of(0, time.time()) == "unreadable" and picture.state_of(1, time.time()) == "alive"


@pytest.mark.parametrize(("values", "bars"), [([1.0, 2.0, float("nan"), 8.0], "▁▂█"), ([3.0] * 5, "▁▁▁▁▁"), ([], "")])
def test_the_curve_goes_from_the_smallest_to_the_largest(values: list[float], bars: str) -> None:
    assert curve(values) == bars


def test_a_finished_run_is_a_frame_and_a_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.train(0)
    run.finish()
    assert main(["watch", str(run.root)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "the run is finished" and out.count("finished") == 6


def test_a_run_that_stopped_early_is_told_by_the_exit_code(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(KeyError), contextlib.ExitStack() as logs:
        for log in run.logs:
            logs.enter_context(log)
        raise KeyError
    assert main(["watch", str(run.root)]) == 1
    assert "the run has stopped before its end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["nowhere"], "nowhere: no run: it has no config.yaml"), ([".", "--seconds=0"], "--seconds 0")],
)
def test_mistakes_are_a_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *arguments]) == 2
    told = capsys.readouterr().err
    assert line in told and len(told.splitlines()) == 1


@contextlib.contextmanager
def on_a_terminal(columns: int, *arguments: str) -> Iterator[tuple[int, int]]:
    """(process, descriptor) of `splitcom watch` on a pseudo-terminal of so many columns."""
    process, terminal = pty.fork()
    if process == 0:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns))
        os._exit(main(["watch", "--seconds=0.2", *arguments]))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    try:
        yield process, terminal
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, 9)
            os.waitpid(process, 0)


def read_until(terminal: int, text: str) -> str:
    """What is drawn until a text is; it may be written in parts."""
    drawn, deadline = "", time.monotonic() + 60
    while text not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn):
        assert time.monotonic() < deadline, drawn
        with contextlib.suppress(OSError):
            drawn += os.read(terminal, 1 << 16).decode(errors="replace")
    return drawn


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_redraws_in_place_and_ends_with_the_run(columns: int, run: Run) -> None:
    with on_a_terminal(columns, str(run.root)) as (process, terminal):
        read_until(terminal, "step 0/10")
        run.train(0)
        drawn = read_until(terminal, "step 1/10")
        assert "\x1b[1A" in drawn, "the cursor goes up to draw over the last frame"
        run.finish()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read_until(terminal, "the run is finished"))
        assert max(map(len, re.split(r"[\r\n]+", text))) <= columns
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == 0
