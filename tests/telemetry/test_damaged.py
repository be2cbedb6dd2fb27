"""Logs that were cut off or altered: what is read is right, the rest is told, and HDF5 takes nobody down."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest
from example_log import FORK, write_log

from splitcom_dist.errors import UserError
from splitcom_dist.telemetry import pieces
from splitcom_dist.telemetry import salvage as salvage_module
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.salvage import salvage
from splitcom_dist.telemetry.superblock import SIZE, LogImage, lookup3, parse

STRUCTURES = 16_000  # bytes at the beginning of a log that hold HDF5's own structures, more or less


def damaged(data: bytes, how: str, count: int) -> Iterator[bytes]:
    """Copies that were cut at random offsets, or with 1, 8 or 64 bytes altered, half of them where structures are."""
    generator = random.Random(count)
    for _ in range(count):
        if how == "cut":
            yield data[: generator.randrange(len(data))]
        else:
            copy = bytearray(data)
            among = generator.choice((len(copy), STRUCTURES))
            for _ in range(generator.choice((1, 8, 64))):
                copy[generator.randrange(among)] = generator.randrange(256)
            yield bytes(copy)


def read_all(path: Path, data: bytes, how: str, count: int, rows: dict[str, np.ndarray], report: Path) -> None:
    """In a process of its own: read every table of every copy; UserError and right rows are the two ways out."""
    right = refused = 0
    for copy in damaged(data, how, count):
        path.write_bytes(copy)
        for table, want in rows.items():
            try:
                found = read(path, table)
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
                continue
            assert how != "cut" or found.tobytes() == want.tobytes(), table
            right += 1
    report.write_text(f"{right} {refused}")
    os._exit(0)


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("how", ["cut", "altered"])
def test_reading_a_damaged_log_gives_right_rows_or_one_line(how: str, kill: bool, tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"
    rows = write_log(path, kill=kill)
    process = FORK.Process(target=read_all, args=(path, path.read_bytes(), how, 12, rows, tmp_path / "report"))
    process.start()
    process.join(100)
    if process.exitcode is None:
        process.kill()
        pytest.fail("HDF5 did not come back")
    assert process.exitcode == 0
    right, refused = map(int, (tmp_path / "report").read_text().split())
    assert refused > 5 and (right > 0) is (how == "altered" or kill), "a closed log that was cut is refused whole"


@pytest.mark.parametrize("kill", [False, True])
def test_all_rows_before_the_cut_are_saved_and_no_others(kill: bool, tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"
    rows = write_log(path, kill=kill)
    size, shares = path.stat().st_size, []
    for share in (0.95, 0.5):
        os.truncate(path, int(share * size))
        with salvage(path) as found:
            for table, piece in found.pieces.items():
                if table in rows and not piece.lost:
                    assert piece.rows.tobytes() == rows[table].tobytes()
                elif table in rows:
                    assert set(piece.rows.tobytes()) <= set(range(65, 90)), "zeros are no rows"
                    assert len(piece.rows) + sum(b - a for a, b, _ in piece.lost) == len(rows[table])
            shares.append(sum(len(piece.rows) for piece in found.pieces.values()) / sum(map(len, rows.values())))
            assert not found.is_whole
    assert 1 > shares[0] > shares[1] > 0.1


def test_a_log_without_its_first_bytes_is_saved_too(tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"
    rows = write_log(path)
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"nonsense")
    with pytest.raises(UserError, match="its first bytes"):
        read(path, "train")
    with salvage(path) as found:
        assert found.faults == ["the superblock"]
        assert all(found.pieces[table].rows.tobytes() == rows[table].tobytes() for table in rows)


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_what_is_no_log_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.h5: no HDF5 file"), salvage(tmp_path / "x.h5"):
        pass


CRASHES = """
import os, signal, sys, time
from splitcom_dist.telemetry import pieces
copy = pieces._copy
def copy_or_die(file, name, *more):
    if name == "similarity":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "train":
        time.sleep(100)
    return copy(file, name, *more)
pieces._copy = copy_or_die
pieces.main(*sys.argv[1:])
"""


def test_a_crash_of_the_library_and_a_hang_cost_one_table_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rank_00000.h5"
    rows = write_log(path)
    (tmp_path / "reader.py").write_text(CRASHES)
    monkeypatch.setattr(salvage_module, "READER", (sys.executable, str(tmp_path / "reader.py")))
    with salvage(path, seconds=8) as found:
        assert set(rows) - set(found.pieces) == {"similarity", "train"}
        assert all(
            found.pieces[table].rows.tobytes() == rows[table].tobytes() for table in found.pieces if table in rows
        )
        assert f"similarity: HDF5 ended its process with code {-signal.SIGSEGV}" in found.faults
        assert any(fault.startswith("train: HDF5 did not come back") for fault in found.faults)


def test_the_checksum_is_hdf5s(tmp_path: Path) -> None:
    path = tmp_path / "rank_00000.h5"
    write_log(path, kill=True)
    head = path.read_bytes()[:SIZE]
    found = parse(head)
    assert found is not None and found.flags != 0
    assert lookup3(head[:-4]) == int.from_bytes(head[-4:], "little")
    assert parse(head[:12] + b"\1" + head[13:]) is None
    with LogImage(path) as image:
        assert not image.is_plain and not image.is_cut and image.read(12)[11] == 0


class Forked:
    """Reads as the process that it stands for, but forked with all imported: a thousand start in a minute."""

    def __init__(self, command: Sequence[str], **_: object) -> None:
        self._told = TemporaryFile("w+")  # noqa: SIM115
        self._process = FORK.Process(target=self._read, args=command[len(salvage_module.READER) :])
        self._process.start()

    def _read(self, *arguments: str) -> None:
        with redirect_stdout(self._told):
            pieces.main(*arguments)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("reader", timeout or 0)
        self._told.seek(0)
        return self._told.read(), ""

    def kill(self) -> None:
        self._process.kill()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut", "altered"])
def test_a_thousand_damaged_logs(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)
    path = tmp_path / "rank_00000.h5"
    rows = write_log(path)
    total, shares = sum(map(len, rows.values())), []
    for copy in damaged(path.read_bytes(), how, 1000):
        path.write_bytes(copy)
        try:
            with salvage(path) as found:
                shares.append(sum(len(found.pieces[table].rows) for table in found.pieces if table in rows) / total)
                for table, want in rows.items() if how == "cut" else ():
                    piece = found.pieces.get(table)
                    assert piece is None or piece.lost or piece.rows.tobytes() == want.tobytes()
        except UserError:
            shares.append(0.0)
    assert np.mean(shares) > (0.3 if how == "cut" else 0.6)
