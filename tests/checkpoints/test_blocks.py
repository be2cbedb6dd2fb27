"""Large tensors are written once: a checkpoint's files hold what has changed, and everything can be read back."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitcom_dist.checkpoints.blocks import BLOCK, LARGE
from splitcom_dist.checkpoints.files import CheckpointFolder
from splitcom_dist.errors import UserError

ROWS = 4 * LARGE // 64  # of 32 bf16: 4 MiB


def store(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "rows": torch.randn(ROWS, 32, generator=generator).bfloat16(),
        "hashes": torch.randint(2**60, (LARGE // 4,), generator=generator),
        "small": torch.arange(5),
    }


def save(folder: CheckpointFolder, step: int, state: dict[str, torch.Tensor]) -> None:
    folder.commit(step, {0: folder.write(step, 0, state)}, 1)


def size(folder: CheckpointFolder, step: int) -> int:
    path = folder.root / f"step_{step:08d}" / "rank_00000.blocks"
    return path.stat().st_size if path.is_file() else 0


def check(folder: CheckpointFolder, step: int, state: dict[str, torch.Tensor]) -> None:
    fresh = CheckpointFolder(folder.root, folder.keep)
    assert fresh.newest(1) == (step, [])
    found = fresh.read(step, 0)
    assert found.keys() == state.keys()
    assert all(found[name].equal(tensor) for name, tensor in state.items())


def test_only_changed_blocks_are_written(tmp_path: Path) -> None:
    folder, state = CheckpointFolder(tmp_path, keep=2), store(0)
    save(folder, 1, state)
    assert size(folder, 1) == state["rows"].nbytes + state["hashes"].nbytes
    state["rows"][100:140] += 1
    save(folder, 2, state)
    assert size(folder, 2) == BLOCK
    check(folder, 2, state)
    save(folder, 3, state)
    assert size(folder, 3) == 0, "nothing has changed"
    check(folder, 3, state)
    assert folder.steps() == [1, 2, 3], "the first step's blocks are still needed"
    assert not (tmp_path / "step_00000001" / "manifest.json").exists()


def test_a_resumed_rank_goes_on_writing_changes_only(tmp_path: Path) -> None:
    folder, state = CheckpointFolder(tmp_path, keep=1), store(1)
    save(folder, 1, state)
    resumed = CheckpointFolder(tmp_path, keep=1)
    resumed.read(1, 0)
    state["rows"][-1] += 1
    save(resumed, 2, state)
    assert size(resumed, 2) == BLOCK
    check(resumed, 2, state)


def test_harm_to_an_old_file_of_blocks_is_found(tmp_path: Path) -> None:
    folder, state = CheckpointFolder(tmp_path, keep=1), store(2)
    save(folder, 1, state)
    state["rows"][0] += 1
    save(folder, 2, state)
    path = tmp_path / "step_00000001" / "rank_00000.blocks"
    raw = bytearray(path.read_bytes())
    raw[12345] ^= 1
    path.write_bytes(raw)
    step, (line,) = CheckpointFolder(tmp_path, keep=1).newest(1)
    assert step is None
    assert "step_00000001/rank_00000.blocks is torn or altered" in line
    path.write_bytes(raw[:-5])
    with pytest.raises(UserError, match="cut short"):
        CheckpointFolder(tmp_path, keep=1).read(2, 0)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(1, ROWS // 2)), min_size=1, max_size=8))
def test_any_history_is_read_back_and_the_files_stay_within_bounds(
    changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, state = CheckpointFolder(tmp_path_factory.mktemp("history"), keep=1), store(3)
    save(folder, 0, state)
    whole = size(folder, 0)
    for step, (begin, count) in enumerate(changes, 1):
        state["rows"][begin : begin + count] *= 1.5
        save(folder, step, state)
        check(folder, step, state)
        assert sum(size(folder, old) for old in folder.steps()) <= 2 * whole + BLOCK
