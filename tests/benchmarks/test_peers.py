"""What benchmarks/peers.py reads and counts: marks, another program's log, lines, memory, and bytes between parties."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import peers_flower
import peers_pipeline
import peers_splitlora
import pytest
from peers_job import CLIENTS, Job, prepare, read_tokens
from peers_outcome import Course, Outcome, lines_of_code, read_marks
from peers_parties import Memory, Parties, resident
from peers_table import page

BYTES = 2_000_000
SENDER = f"""
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as to: to.sendall(bytes({BYTES}))
"""
RECEIVER = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    peer, _ = server.accept()
    while peer.recv(65536): pass
"""
LOG = """
| epoch   1 step       51 |     49 batches | lr 0.001 | ms/batch 900.00 | loss  9.01 | avg loss  9.50 | ppl 13359.73
| epoch   2 step      {last} |     49 batches | lr 0.001 | ms/batch 500.00 | loss  8.01 | avg loss  8.50 | ppl 4914.77
eval samples: 0 loss: tensor(8.25)
average loss 8.125
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare(tmp_path_factory.mktemp("job"), "tiny", steps=2, epochs=2, batch=2, e2e=None)


def test_every_client_has_as_many_texts_as_its_steps_need(job: Job) -> None:
    assert [len(read_tokens(job.tokens / f"{client}.jsonl")) for client in range(CLIENTS)] == [4] * CLIENTS
    texts = [(job.texts / f"{client}" / "train.jsonl").read_text().splitlines() for client in range(CLIENTS)]
    assert len({line for lines in texts for line in lines}) == 4 * CLIENTS


def test_the_rate_leaves_out_the_first_round(tmp_path: Path) -> None:
    marks = tmp_path / "marks.jsonl"
    marks.write_text('{"round": 0, "time": 1}\n{"round": 1, "time": 10}\n{"round": 3, "time": 20}\n{"loss": 2.5}\n')
    assert read_marks(marks, 1000) == Course(200.0, 2.5)
    marks.write_text('{"round": 1, "time": 10}\n{"round": 2, "time": 20}\n{"loss": 2.5, "training": 4}\n')
    assert read_marks(marks, 1000) == Course(100.0, 2.5, 0.4)
    marks.write_text('{"round": 0, "time": 1}\n{"round": 1, "time": 10}\n')
    with pytest.raises(ValueError, match="two are needed"):
        read_marks(marks, 1000)


def test_the_log_of_splitlora_is_read_by_epochs() -> None:
    course = peers_splitlora.read_log(LOG.format(last=102), steps=17, epoch_tokens=5100)
    assert course == Course(5100 / (51 * 0.5), 8.125)
    course = peers_splitlora.read_log(LOG.format(last=99), steps=17, epoch_tokens=5100)
    assert course.loss is None  # it has never averaged its clients
    with pytest.raises(ValueError, match="second epoch"):
        peers_splitlora.read_log("\n".join(LOG.splitlines()[:2]), steps=17, epoch_tokens=5100)


def test_splitlora_is_left_out_where_its_constants_do_not_fit(job: Job) -> None:
    reason = peers_splitlora.unfit(job)
    assert reason is not None and "n_layer 6" in reason


def test_lines_are_counted_without_comments_blanks_and_docstrings(tmp_path: Path) -> None:
    program, table = tmp_path / "a.py", tmp_path / "b.toml"
    program.write_text('"""Two\nlines."""\n\n# why\nx = 1  # what\n\ndef f() -> str:\n    """One."""\n    return "a"\n')
    table.write_text("# comment\n[a]\nb = 1\n")
    assert lines_of_code([program]) == 3
    assert lines_of_code([program, table]) == 5


def test_flower_takes_the_values_that_its_app_has_keys_for(job: Job) -> None:
    keys = tomllib.loads((peers_flower.APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert keys.keys() == peers_flower.configuration(job, Path("marks")).keys()


def test_memory_adds_what_lives_at_one_moment_and_keeps_each_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid, now, peak in ((1, 10, 30), (2, 20, 20)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nVmHWM:\t{peak} kB\nVmRSS:\t{now} kB\n")
    monkeypatch.setattr("peers_parties.resident", lambda pid: resident(pid, tmp_path))
    memory = Memory()
    memory.look([1, 2])
    memory.look([2, 3])  # 1 has ended; 3 is gone before it is looked at
    assert (memory.largest_sum, memory.largest_process) == (30 * 1024, 30 * 1024)


def test_a_ratio_compares_runs_of_the_same_round(job: Job) -> None:
    def ran(rate: float) -> Outcome:
        return Outcome(rate, None, 10.0, 1_000_000, 3_000_000, 2_000_000)

    runs = {"a": [ran(200), ran(50), ran(50)], "b": [ran(100), ran(50), ran(20)]}
    text = page(job, "tiny", False, {"a": 7, "b": 8}, runs, {"c": "not run: why"})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:3] in ("| b", "| c")
    ]
    assert rows[0][:6] == ["b", "50", "20 - 100", "0.50", "1.00", "-"] and rows[0][8:10] == ["8", "-"]
    assert rows[1][:2] == ["c", "not run: why"] and len(rows[0]) == len(rows[1])
    assert "medians of 3" in text and "b: clients trained" not in text


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2")
def test_bytes_are_counted_where_a_party_sends_them(tmp_path: Path) -> None:
    with Parties(["a", "b"], tmp_path) as parties:
        receiver = parties.start("b", [sys.executable, "-c", RECEIVER], {})
        parties.wait_for_port(receiver, 7000, 60)
        sender = parties.start("a", [sys.executable, "-c", SENDER, parties.address("b")], {})
        left = parties.start("a", ["sleep", "1000"], {})
        parties.wait([sender, receiver], 60)
        sent = parties.sent()
        assert BYTES < sent["a"] < 1.1 * BYTES and sent["b"] < 0.1 * BYTES
        assert len(parties.processes()) == 1, left
        wrong = parties.start("b", [sys.executable, "-c", "raise SystemExit('no such file')"], {})
        with pytest.raises(RuntimeError, match="no such file"):
            parties.wait([wrong], 60)
    assert not parties.processes() and f"peers{os.getpid()}" not in subprocess.getoutput("ip netns list")


@pytest.mark.long
def test_the_pipeline_learns(job: Job, tmp_path: Path) -> None:
    marks = tmp_path / "marks.jsonl"
    command = [sys.executable, str(peers_pipeline.PROGRAM), *peers_pipeline.options(job, marks)]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    stages = [subprocess.Popen(command, env={**os.environ, **meeting, "RANK": str(rank)}) for rank in range(2)]
    assert [stage.wait(120) for stage in stages] == [0, 0]
    course = read_marks(marks, job.epoch_tokens)
    assert course.tokens_per_second > 0 and course.loss is not None and course.loss < 5.6  # where the model starts
